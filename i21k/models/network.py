"""What the rest of the code may know of a network.

Only files under `models/` and `interop/` know layer names, the mean of the images, revisions, or
the depth of a tree of variables. Everything else uses a `Network`, and makes one with `build`.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float, UInt8

from i21k.errors import UserError

Remat = Literal["none", "conv", "block"]
Init = Literal["uniform", "he_normal"]

# Nested dicts of arrays, of any depth. The top level has "params", which the optimizer changes, and
# may have "batch_stats": normalisation statistics, which the forward pass changes in training.
Variables = Mapping[str, Any]
Path = tuple[str, ...]  # of one array below "params" or below "batch_stats"


class Output(NamedTuple):
    """What a network gives for a batch. Under `jax.jit`, an unused output costs nothing."""

    logits: Float[Array, "B K"]  # float32, whatever the network computes in
    features: Float[Array, "B F"]  # float32: what the classifier head takes


class Layer(NamedTuple):
    """A layer with parameters, for one image."""

    name: str
    block: str  # that it belongs to
    shape: tuple[int, ...]  # of its output
    block_shape: tuple[int, ...]  # of the output of the block
    num_parameters: int
    multiply_adds: int  # with those by padding
    activation_bytes: int  # of its output


class Network(abc.ABC):
    """A network without its variables. Immutable and hashable; the `with_` methods return another.

    To walk over a tree with paths as `is_kernel` and `is_trained` take them, use
    `flax.traverse_util.path_aware_map(lambda path, leaf: ..., variables["params"])`.
    """

    # What it is

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """A short name for people, such as "Inception-BN full, released, width 1"."""

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """The number of logits."""

    @property
    @abc.abstractmethod
    def num_features(self) -> int:
        """The number of features that the classifier head takes."""

    @property
    @abc.abstractmethod
    def dtype(self) -> str:
        """The type of activations, such as "bfloat16". Parameters and logits are float32."""

    @property
    @abc.abstractmethod
    def momentum(self) -> float:
        """Weight of the old statistics in the new ones, at each training step."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what makes this network this function, as JSON. `build` makes it again."""

    @abc.abstractmethod
    def check_size(self, height: int, width: int) -> None:
        """Check that the network takes images of this size (px).

        Raises:
            UserError: naming the nearest size that fits.
        """

    # What it computes

    @abc.abstractmethod
    def prepare(
        self, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        """Turn RGB values of 0 to 255 into what `apply` takes, on the device."""

    @abc.abstractmethod
    def apply(self, variables: Variables, images: Float[Array, "B H W 3"]) -> Output:
        """Compute the outputs for inference. Images do not influence each other."""

    @abc.abstractmethod
    def apply_train(
        self, variables: Variables, images: Float[Array, "B H W 3"]
    ) -> tuple[Output, dict[str, Any]]:
        """Compute the outputs for training, and the new value of `variables["batch_stats"]`."""

    # What its variables are

    @abc.abstractmethod
    def initial(self, image_size: int, init: Init, seed: int) -> dict[str, Any]:
        """Draw variables (NumPy, float32): the same values for the same seed on every machine.

        Args:
            image_size: in px.
            init: of kernels: "uniform" (-0.01 to 0.01, as in 2015) or "he_normal" (He et al. 2015).
            seed: of the run.

        Raises:
            UserError: if the network does not take images of this size.
        """

    @abc.abstractmethod
    def shapes(self, image_size: int) -> dict[str, Any]:
        """Return the tree of variables with shapes and dtypes instead of values.

        Raises:
            UserError: if the network does not take images of this size (px).
        """

    @property
    @abc.abstractmethod
    def head(self) -> Path:
        """The path of the classifier head: the parameters whose path begins with it."""

    @abc.abstractmethod
    def is_kernel(self, path: Path) -> bool:
        """Tell whether this parameter is a kernel, and not a bias or a scale of a normalisation."""

    @abc.abstractmethod
    def is_trained(self, path: Path) -> bool:
        """Tell whether this parameter has an effect. One without must not decay."""

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of the parts below the head, from the bottom to the top."""

    @abc.abstractmethod
    def part_of(self, path: Path) -> str:
        """Return the part that a parameter or a statistic belongs to, or "head"."""

    @abc.abstractmethod
    def is_frozen(self, collection: str, path: Path) -> bool:
        """Return whether an array stays as it is in training (see `with_frozen`).

        Args:
            collection: "params" or "batch_stats".
            path: of the array below it.
        """

    @abc.abstractmethod
    def moments(self, batch_stats: Mapping[str, Any]) -> list[tuple[Path, Path]]:
        """Return the paths of all statistics: each mean, and the variance that belongs to it."""

    @abc.abstractmethod
    def layers(self, image_size: int) -> list[Layer]:
        """List all layers that have parameters, for one image of this size (px)."""

    # The same function in another way

    @abc.abstractmethod
    def with_remat(self, remat: Remat) -> "Network":
        """Choose what the backward pass recomputes: nothing; all but convolutions; each block."""

    @abc.abstractmethod
    def with_momentum(self, momentum: float) -> "Network":
        """Choose the weight of the old statistics in the new ones. 0 gives those of the batch."""

    @abc.abstractmethod
    def with_statistics_over(self, axis_name: str | None) -> "Network":
        """Normalise over all devices of an axis in training. None: each device by itself."""

    @abc.abstractmethod
    def with_frozen(self, up_to: str) -> "Network":
        """Freeze parts: in training they compute as in inference, and need no gradient.

        Args:
            up_to: the highest frozen part; "trunk" for all but the head; "none".

        Raises:
            UserError: naming the parts, if there is no such part.
        """

    @abc.abstractmethod
    def with_fixed_statistics(self, fixed: bool) -> "Network":
        """Normalise by the moving statistics in training too, and keep them."""

    @abc.abstractmethod
    def for_inference(self, platform: str) -> tuple["Network", Callable[[Variables], Variables]]:
        """Return a faster network for inference, and the function that converts variables for it.

        Args:
            platform: as JAX names it: "cpu", "gpu".
        """


def build(description: Mapping[str, Any], num_classes: int) -> Network:
    """Build the network that `describe` described, or one that a recipe describes.

    Args:
        description: `network` names the kind, and the other keys are that kind's own. Absent keys
            have defaults. Checkpoints of version one have no `network`: they are Inception-BN.
        num_classes: the number of logits.

    Raises:
        UserError: if the kind, a key or a value is unknown.
    """
    # Not at the top of the file: the implementations import this file.
    from i21k.models.inception_network import InceptionNetwork

    kinds = {InceptionNetwork.kind: InceptionNetwork.from_description}
    own = dict(description)
    kind = own.pop("network", InceptionNetwork.kind)
    if kind not in kinds:
        raise UserError(f"There is no network {kind!r}. Use one of {', '.join(map(repr, kinds))}.")
    return kinds[kind](own, num_classes)
