"""Inception-BN with 1.5 times the filters in the bottom (`full`), and the standard 1,000-class one (`standard`).

The network of the 2015 MXNet note, in the two revisions that share every parameter shape and differ in function: `released`
(2015-10-24, the published weights) and `symbol2016` (the last revision of the symbol file). Layers keep the MXNet names, flat,
since checkpoints and the parity tests use them. Source: MXNet example/image-classification/symbol_inception-bn{,-full}.py;
Ioffe and Szegedy 2015, arXiv 1502.03167.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from i21k.errors import UserError
from i21k.models import winograd
from i21k.models.batch_norm import BatchNorm
from i21k.models.pools import average_pool, max_pool

Remat = Literal["none", "conv", "block"]

MEAN = 117.0  # of every channel, subtracted by the caller; the images are not scaled

# Pictures at a time with `for_cpu`: few enough for the cache, many enough to share the reading of the kernels (`notebooks/LOG.md`).
STEM_PIECE, BLOCKS_PIECE = 2, 8


class Mixed(NamedTuple):
    """Filters of a block that keeps the size: four branches, concatenated in the order 1x1, 3x3, double, projection."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: Literal["avg", "max"]
    projection: int


class Reduction(NamedTuple):
    """Filters of a block that halves the size: 3x3, double and a max pool of the input, in this order."""

    three_reduce: int
    three: int
    double_reduce: int
    double: int


Blocks = dict[str, Mixed | Reduction]  # by name, from the bottom


class Widths(NamedTuple):
    """Filters of a whole network."""

    stem: tuple[int, int, int]  # conv1 7x7/2, conv2red 1x1, conv2 3x3
    blocks: Blocks


_TOP: Blocks = {
    "4a": Mixed(224, 64, 96, 96, 128, "avg", 128),
    "4b": Mixed(192, 96, 128, 96, 128, "avg", 128),
    "4c": Mixed(160, 128, 160, 128, 160, "avg", 128),
    "4d": Mixed(96, 128, 192, 160, 192, "avg", 128),
    "4e": Reduction(128, 192, 192, 256),
    "5a": Mixed(352, 192, 320, 160, 224, "avg", 128),
    "5b": Mixed(352, 192, 320, 192, 224, "max", 128),
}
_BOTTOM: Blocks = {
    "3a": Mixed(64, 64, 64, 64, 96, "avg", 32),
    "3b": Mixed(64, 64, 96, 64, 96, "avg", 64),
    "3c": Reduction(128, 160, 64, 96),
}
_WIDE_BOTTOM: Blocks = {
    "3a": Mixed(96, 96, 96, 96, 144, "avg", 48),
    "3b": Mixed(96, 96, 144, 96, 144, "avg", 96),
    "3c": Reduction(192, 240, 96, 144),
}
_NARROW_4D: Blocks = {"4d": Mixed(96, 128, 192, 160, 96, "avg", 128)}
WIDTHS = {
    "standard": Widths((64, 64, 192), _BOTTOM | _TOP),
    "full": Widths((96, 128, 288), _WIDE_BOTTOM | _TOP | _NARROW_4D),
}


class Revision(NamedTuple):
    """What the two revisions of the network do differently; the parameters have the same shapes."""

    ceil_pools: bool  # sizes 112-56-28-14-7 at 224 px; floor: 112-55-27-14-7
    reduction_pool_padding: int  # of the max pools in 3c and 4e
    count_padding: bool  # whether an average pool divides by 9 at the border too
    epsilon: float
    momentum: float  # weight of the old moving average
    fixed_gamma: bool  # gamma is stored, but 1 is used: it is neither trained nor decayed


REVISIONS = {
    "released": Revision(True, 0, False, 1e-10, 0.1, False),
    "symbol2016": Revision(False, 1, True, 1e-3, 0.9, True),
}


class Convolution(nn.Module):
    """Convolution without its bias, which it keeps and returns beside the result: BatchNorm has a cheaper use for it."""

    filters: int
    side: int  # of the kernel
    stride: int
    dtype: Any
    kernel_init: Callable[..., Array]
    by_winograd: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b p q k"], Float[Array, " k"]]:
        kernel = self.param(
            "kernel",
            self.kernel_init,
            (self.side, self.side, x.shape[-1], self.filters),
            jnp.float32,
        ).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,), jnp.float32)
        if self.by_winograd:
            return winograd.convolve(x, kernel), bias
        if (
            self.side == 1
        ):  # XLA for CPU is twice as fast at the weight gradient of a matrix product as at a convolution's
            return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ()))), bias
        padding = [(self.side // 2, self.side // 2)] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), padding, dimension_numbers=layout
        ), bias


class InceptionBN(nn.Module):
    """Logits of `num_classes` for RGB pictures in 0..255 from which `MEAN` has been subtracted.

    Any square size that the revision's pools allow (`check_size`); 224 px is the published one.
    """

    num_classes: int = 21841
    variant: Literal["full", "standard"] = "full"
    revision: Literal["released", "symbol2016"] = "released"
    width: float = 1.0  # scales the filters of every layer, for small machines
    dtype: Any = (
        jnp.float32
    )  # of convolutions and activations; parameters, statistics and logits are float32
    remat: Remat = (
        "none"  # what the backward pass recomputes: nothing; all but convolutions; each block
    )
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    bn_axis_name: str | None = (
        None  # devices to compute BatchNorm statistics over; None: each by itself, as in 2015
    )
    bn_momentum: float | None = None  # weight of the old moving average; None: the revision's own
    count_padding: bool | None = None  # of average pools; None: the revision's own
    folded: bool = False  # without BatchNorm, for variables of `inference.fold`; for inference only
    for_cpu: bool = False  # a folded network: the same function, arranged for the caches and vector units of a CPU

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b K"]:
        return self.outputs(images, train)[0]

    @nn.compact
    def outputs(
        self, images: Float[Array, "b h w 3"], train: bool = False
    ) -> tuple[Float[Array, "b K"], Float[Array, "b f"]]:
        """Return the logits, and the features that the last layer takes; both float32."""
        check_size(self.revision, *images.shape[1:3])
        if self.for_cpu and not self.folded:
            raise UserError(
                "for_cpu=True with folded=False: only a folded network is arranged for a CPU; see i21k.models.folding.folded"
            )
        widths = WIDTHS[self.variant]
        conv1, conv2red, conv2 = widths.stem

        def stem1(self: "InceptionBN", x: Array) -> Array:
            return self._pool(
                self._unit(x, conv1, "conv1", train, kernel=7, stride=2), "max", "pool1", stride=2
            )

        def stem2(self: "InceptionBN", x: Array) -> Array:
            x = self._unit(
                self._unit(x, conv2red, "conv2red", train),
                conv2,
                "conv2",
                train,
                kernel=3,
                by_winograd=True,
            )
            return self._pool(x, "max", "pool2", stride=2)

        def stem(self: "InceptionBN", x: Array) -> Array:
            x = self._recomputed(stem1)(self, x)  # [b, 56, 56, 96] for 224 px, full, released
            return self._recomputed(stem2)(self, x)  # [b, 28, 28, 288]

        def blocks(self: "InceptionBN", x: Array) -> Array:
            for name, filters in widths.blocks.items():
                block = functools.partial(_block, name=name, filters=filters, train=train)
                x = self._recomputed(block)(
                    self, x
                )  # 3a-3b [b, 28, 28, _], 3c-4d [b, 14, 14, _], 4e-5b [b, 7, 7, _]
                self.sow("intermediates", f"ch_concat_{name}_chconcat", x)
            return x

        x = self._in_pieces(stem, images.astype(self.dtype), STEM_PIECE)
        x = self._in_pieces(blocks, x, BLOCKS_PIECE)
        features = jnp.mean(
            x.astype(jnp.float32), axis=(1, 2)
        )  # [b, 1024]; 7x7 at 224 px, whatever is left at other sizes
        self.sow("intermediates", "flatten", features)
        logits = nn.Dense(
            self.num_classes, name="fc1", dtype=self.dtype, kernel_init=self.kernel_init
        )(features)
        return logits.astype(jnp.float32), features

    @property
    def num_features(self) -> int:
        """The number of features that the last layer takes: 1,024 at width 1."""
        top = WIDTHS[self.variant].blocks["5b"]
        assert isinstance(top, Mixed)
        branches = (top.one, top.three, top.double, top.projection)
        return sum(scaled(filters, self.width) for filters in branches)

    def describe(self) -> dict[str, Any]:
        """Return what makes this network this function, as JSON: `InceptionBN(num_classes=..., **described)` is it again."""
        described = {
            key: getattr(self, key)
            for key in ("variant", "revision", "width", "bn_momentum", "count_padding")
        }
        return described | {"dtype": jnp.dtype(self.dtype).name}

    def _recomputed(
        self, block: Callable[["InceptionBN", Array], Array]
    ) -> Callable[["InceptionBN", Array], Array]:
        if self.remat == "none":
            return block
        # `dots_saveable` covers convolutions: their outputs are kept, BatchNorm, ReLU, pools and concatenations are computed again.
        policy = jax.checkpoint_policies.dots_saveable if self.remat == "conv" else None
        return nn.remat(block, policy=policy)

    def _in_pieces(
        self, network: Callable[["InceptionBN", Array], Array], x: Array, piece: int
    ) -> Array:
        """Call `network` on all of `x`; with `for_cpu` on at most `piece` pictures at a time, so that its activations stay in the cache."""
        if not self.for_cpu or len(x) <= piece:
            return network(self, x)
        num_pieces = -(-len(x) // piece)
        piece = -(-len(x) // num_pieces)
        padded = jnp.pad(x, [(0, num_pieces * piece - len(x)), (0, 0), (0, 0), (0, 0)])
        loop = nn.scan(
            lambda self, _, x: (None, network(self, x)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, y = loop(self, None, padded.reshape(num_pieces, piece, *x.shape[1:]))
        return y.reshape(num_pieces * piece, *y.shape[2:])[: len(x)]

    def _unit(
        self,
        x: Array,
        filters: int,
        name: str,
        train: bool,
        kernel: int = 1,
        stride: int = 1,
        by_winograd: bool = False,
        pool_before_bias: str = "",
    ) -> Array:
        """Convolution with bias, BatchNorm unless it is folded into the convolution, ReLU; `filters` are those of width 1.

        `by_winograd` counts with `for_cpu` in float32 alone; of the 3x3 convolutions only `conv2`, a third of all operations, gains by it.
        An average pool before a 1x1 convolution is the same after it, as long as the bias comes last; there it has 48 to 128 channels
        instead of 288 to 608. `pool_before_bias` names it.
        """
        revision = REVISIONS[self.revision]
        by_winograd = by_winograd and self.for_cpu and self.dtype == jnp.float32
        filters = scaled(filters, self.width)
        convolution = Convolution(
            filters, kernel, stride, self.dtype, self.kernel_init, by_winograd, name=f"conv_{name}"
        )
        x, bias = convolution(x)
        if pool_before_bias:
            x = self._pool(x, "avg", pool_before_bias, padding=1)
        if self.folded:
            x = x + bias.astype(self.dtype)
        else:
            momentum = revision.momentum if self.bn_momentum is None else self.bn_momentum
            norm = BatchNorm(
                revision.epsilon,
                momentum,
                revision.fixed_gamma,
                self.bn_axis_name,
                self.dtype,
                name=f"bn_{name}",
            )
            x = norm(x, bias, train)
        x = nn.relu(x)
        self.sow("intermediates", f"relu_{name}", x)
        return x

    def _pool(self, x: Array, kind: str, name: str, stride: int = 1, padding: int = 0) -> Array:
        """3x3 pool; in ceil mode the windows that start inside the padded picture count, as in MXNet before July 2016."""
        revision = REVISIONS[self.revision]
        count_padding = revision.count_padding if self.count_padding is None else self.count_padding
        low_high = [
            _pool_padding(size, stride, padding, revision.ceil_pools) for size in x.shape[1:3]
        ]
        pads = (low_high[0], low_high[1])
        x = (
            max_pool(x, stride, pads)
            if kind == "max"
            else average_pool(x, pads, count_padding=count_padding, by_slices=self.for_cpu)
        )
        self.sow("intermediates", name, x)
        return x


def _block(
    self: InceptionBN, x: Array, *, name: str, filters: Mixed | Reduction, train: bool
) -> Array:
    if isinstance(filters, Mixed):
        return _mixed(self, x, name=name, filters=filters, train=train)
    return _reduction(self, x, name=name, filters=filters, train=train)


def _mixed(self: InceptionBN, x: Array, *, name: str, filters: Mixed, train: bool) -> Array:
    one = self._unit(x, filters.one, f"{name}_1x1", train)
    three = self._unit(x, filters.three_reduce, f"{name}_3x3_reduce", train)
    three = self._unit(three, filters.three, f"{name}_3x3", train, kernel=3)
    double = self._unit(x, filters.double_reduce, f"{name}_double_3x3_reduce", train)
    double = self._unit(double, filters.double, f"{name}_double_3x3_0", train, kernel=3)
    double = self._unit(double, filters.double, f"{name}_double_3x3_1", train, kernel=3)
    if filters.pool == "max":
        projection = self._unit(
            self._pool(x, "max", f"max_pool_{name}_pool", padding=1),
            filters.projection,
            f"{name}_proj",
            train,
        )
    else:
        projection = self._unit(
            x, filters.projection, f"{name}_proj", train, pool_before_bias=f"avg_pool_{name}_pool"
        )
    return jnp.concatenate([one, three, double, projection], axis=-1)


def _reduction(self: InceptionBN, x: Array, *, name: str, filters: Reduction, train: bool) -> Array:
    three = self._unit(x, filters.three_reduce, f"{name}_3x3_reduce", train)
    three = self._unit(three, filters.three, f"{name}_3x3", train, kernel=3, stride=2)
    double = self._unit(x, filters.double_reduce, f"{name}_double_3x3_reduce", train)
    double = self._unit(double, filters.double, f"{name}_double_3x3_0", train, kernel=3)
    double = self._unit(double, filters.double, f"{name}_double_3x3_1", train, kernel=3, stride=2)
    pool = self._pool(
        x,
        "max",
        f"max_pool_{name}_pool",
        stride=2,
        padding=REVISIONS[self.revision].reduction_pool_padding,
    )
    return jnp.concatenate([three, double, pool], axis=-1)


def _pool_padding(size: int, stride: int, padding: int, ceil: bool) -> tuple[int, int]:
    """Padding (low, high) in pixels that gives XLA's floor pooling the output size of MXNet's."""
    if not ceil:
        return padding, padding
    outputs = min(size + 2 * padding - 3 + stride - 1, size + 2 * padding - 1) // stride + 1
    return padding, max(padding, (outputs - 1) * stride + 3 - size - padding)


def scaled(filters: int, width: float) -> int:
    """Number of filters of a layer of a network `width` times as wide: a multiple of 8, at least 8; exact at 1."""
    return filters if width == 1 else max(8, round(filters * width / 8) * 8)


def check_size(revision: str, height: int, width: int) -> None:
    """Refuse pictures that the network's pools cannot take.

    The stride-2 convolutions of 3c and 4e round up; `released` pools without padding beside them, which fits even sizes only.

    Raises:
        ValueError: naming the nearest size that fits.
    """
    for size in (height, width):
        if revision == "released" and (size < 31 or (size + 1) % 32 > 7):
            below = (size + 1) // 32 * 32 + 6
            nearest = max(31, min((below, below + 25), key=lambda fits: abs(fits - size)))
            raise UserError(
                f"revision 'released' takes sizes of 32k-1 to 32k+6 px, got {height} x {width}; the nearest is {nearest} px"
                " (--config.image_size), or use --config.model.revision=symbol2016, which takes any size from 32 px"
            )
        if revision == "symbol2016" and size < 32:
            raise UserError(
                f"revision 'symbol2016' takes sizes from 32 px, got {height} x {width}; set --config.image_size=32 or more"
            )
