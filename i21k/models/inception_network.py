"""Inception-BN as a `Network`: the trainable one. `inception_bn.py` says what it computes."""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from i21k.errors import UserError
from i21k.models import folding, inception_tables, initial
from i21k.models.inception_bn import MEAN, InceptionBN
from i21k.models.inception_tables import REVISIONS, WIDTHS, Mixed, scaled
from i21k.models.network import Init, Layer, Network, Output, Path, Remat, Variables


@dataclasses.dataclass(frozen=True)
class InceptionNetwork(Network):
    """Inception-BN in training and in evaluation."""

    kind: ClassVar[str] = "inception_bn"  # in a description
    module: InceptionBN

    @classmethod
    def from_description(cls, own: dict[str, Any], num_classes: int) -> "InceptionNetwork":
        """Make it from what `describe` returned, without `network`."""
        types = typing.get_type_hints(InceptionBN)
        known = {key: typing.get_args(types[key]) for key in _DESCRIBED}
        for key, value in own.items():
            if key not in (*known, "dtype"):
                raise UserError(
                    f"{key!r} describes no network of kind {cls.kind!r}. "
                    f"Use {', '.join((*known, 'dtype'))}."
                )
            if key in ("variant", "revision") and value not in known[key]:
                raise UserError(
                    f"{key} is {value!r}. Use one of {', '.join(map(repr, known[key]))}."
                )
        dtype, width = own.get("dtype", "float32"), own.get("width", 1.0)
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype is {dtype!r}. Use one of 'float32', 'bfloat16'.")
        if not isinstance(width, float | int) or not 0 < width <= 16:
            raise UserError(f"width is {width!r}. Use a number above 0, at most 16.")
        own = own | {"dtype": jnp.dtype(own.get("dtype", "float32"))}
        return cls(InceptionBN(num_classes=num_classes, **own))

    def describe(self) -> dict[str, Any]:
        described = {key: getattr(self.module, key) for key in _DESCRIBED}
        return {"network": self.kind} | described | {"dtype": self.dtype}

    @property
    def title(self) -> str:
        module = self.module
        return f"Inception-BN {module.variant}, {module.revision}, width {module.width:g}"

    @property
    def num_classes(self) -> int:
        return self.module.num_classes

    @property
    def num_features(self) -> int:
        top = WIDTHS[self.module.variant].blocks["5b"]
        assert isinstance(top, Mixed)
        branches = (top.one, top.three, top.double, top.projection)
        return sum(scaled(filters, self.module.width) for filters in branches)

    @property
    def dtype(self) -> str:
        return jnp.dtype(self.module.dtype).name

    @property
    def momentum(self) -> float:
        own, chosen = REVISIONS[self.module.revision], self.module.bn_momentum
        return own.momentum if chosen is None else chosen

    def check_size(self, height: int, width: int) -> None:
        inception_tables.check_size(self.module.revision, height, width)

    def prepare(
        self, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        return images.astype(jnp.float32) - MEAN

    def apply(self, variables: Variables, images: Float[Array, "B H W 3"]) -> Output:
        outputs: Any = self.module.apply(variables, images, method="outputs")
        return Output(*outputs)

    def apply_train(
        self, variables: Variables, images: Float[Array, "B H W 3"]
    ) -> tuple[Output, dict[str, Any]]:
        outputs, updated = self.module.apply(
            variables, images, train=True, method="outputs", mutable=["batch_stats"]
        )
        return Output(*outputs), updated["batch_stats"]

    def initial(self, image_size: int, init: Init, seed: int) -> dict[str, Any]:
        return initial.draw(self.shapes(image_size), init, seed)

    def shapes(self, image_size: int) -> dict[str, Any]:
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
        shapes: Any = jax.eval_shape(lambda x: self.module.init(jax.random.key(0), x), images)
        return dict(shapes)

    @property
    def head(self) -> Path:
        return ("fc1",)

    def is_kernel(self, path: Path) -> bool:
        return path[-1] == "kernel"

    def is_trained(self, path: Path) -> bool:
        return not (path[-1] == "gamma" and REVISIONS[self.module.revision].fixed_gamma)

    @property
    def parts(self) -> tuple[str, ...]:
        return ("stem", *WIDTHS[self.module.variant].blocks)

    def part_of(self, path: Path) -> str:
        if path[: len(self.head)] == self.head:
            return "head"
        part = path[0].split("_")[1]
        return "stem" if part in _STEM else part

    def is_frozen(self, collection: str, path: Path) -> bool:
        is_fixed = collection == "batch_stats" and self.module.fixed_statistics
        return is_fixed or self.part_of(path) in self.module.frozen

    def moments(self, batch_stats: Mapping[str, Any]) -> list[tuple[Path, Path]]:
        paths = flax.traverse_util.flatten_dict(batch_stats)
        layers = [path[:-1] for path in paths if path[-1] == "moving_mean"]
        return [((*layer, "moving_mean"), (*layer, "moving_var")) for layer in layers]

    def layers(self, image_size: int) -> list[Layer]:
        module = self.module.clone(remat="none")  # intermediates do not leave what is recomputed
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
        shapes = self.shapes(image_size)
        order: list[str] = []  # of the network: trees that JAX returns are sorted by name

        def run(variables: Variables, images: Array) -> Any:
            _, state = module.apply(
                variables, images, capture_intermediates=True, mutable=["intermediates"]
            )
            order.extend(name for name in state["intermediates"] if name in variables["params"])
            return state["intermediates"]

        sown: Any = jax.eval_shape(run, shapes, images)

        def layer(name: str) -> Layer:
            output = sown[name]["__call__"][0]
            output = output[0] if isinstance(output, tuple) else output  # without the bias
            parameters = shapes["params"][name]
            kernel = parameters.get("kernel")
            pixels = math.prod(output.shape[1:-1])
            block = self.part_of((name,))
            top = {"stem": "pool2", "head": name}.get(block, f"ch_concat_{block}_chconcat")
            whole = output if block == "head" else sown[top][0]
            return Layer(
                name=name,
                block=block,
                shape=output.shape[1:],
                block_shape=whole.shape[1:],
                num_parameters=sum(leaf.size for leaf in parameters.values()),
                multiply_adds=0 if kernel is None else kernel.size * pixels,
                activation_bytes=output.size * output.dtype.itemsize,
            )

        return [layer(name) for name in order]

    def with_remat(self, remat: Remat) -> "InceptionNetwork":
        return self._with(remat=remat)

    def with_momentum(self, momentum: float) -> "InceptionNetwork":
        return self._with(bn_momentum=momentum)

    def with_statistics_over(self, axis_name: str | None) -> "InceptionNetwork":
        return self._with(bn_axis_name=axis_name)

    def with_frozen(self, up_to: str) -> "InceptionNetwork":
        if up_to == "none":
            return self._with(frozen=())
        if up_to == "trunk":
            return self._with(frozen=self.parts)
        if up_to not in self.parts:
            raise UserError(
                f"There is no part {up_to!r} to freeze. Use none, trunk, or the highest part to"
                f" freeze of {', '.join(self.parts)}."
            )
        return self._with(frozen=self.parts[: self.parts.index(up_to) + 1])

    def with_fixed_statistics(self, fixed: bool) -> "InceptionNetwork":
        return self._with(fixed_statistics=fixed)

    def _with(self, **fields: Any) -> "InceptionNetwork":
        return dataclasses.replace(self, module=self.module.clone(**fields))

    def for_inference(self, platform: str) -> tuple[Network, Callable[[Variables], Variables]]:
        folded = FoldedNetwork(folding.folded(self.module, platform))
        return folded, lambda variables: folding.fold(variables, self.module.revision)


class FoldedNetwork(InceptionNetwork):
    """Inception-BN for inference. It has no BatchNorm, and cannot be trained."""

    def apply_train(
        self, variables: Variables, images: Float[Array, "B H W 3"]
    ) -> tuple[Output, dict[str, Any]]:
        raise AssertionError("a folded network cannot be trained")

    def for_inference(self, platform: str) -> tuple[Network, Callable[[Variables], Variables]]:
        return self, lambda variables: variables


_STEM = ("conv1", "conv2red", "conv2")
_DESCRIBED = ("variant", "revision", "width", "bn_momentum", "count_padding")
