"""Inception-BN, the network of the MXNet note of 2015.

`inception_tables.py` has its numbers of filters and its revisions. Layers have MXNet's names,
because checkpoints and the parity tests use them. Sources: Ioffe and Szegedy 2015, arXiv
1502.03167; MXNet example/image-classification/symbol_inception-bn{,-full}.py.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from i21k.models.inception_tables import (
    REVISIONS,
    WIDTHS,
    Mixed,
    Reduction,
    check_size,
    scaled,
)
from i21k.models.layers import BatchNorm, Convolution, Dense, recomputed, with_stored_gradient
from i21k.models.pools import Padding, average_pool, max_pool, pool_padding

MEAN = 117.0  # of every channel. The network takes RGB values of 0 to 255 minus this


class InceptionBN(nn.Module):
    """Logits for RGB images from which `MEAN` has been subtracted. `check_size` tells which fit.

    `folding.py` and `cpu.py` have subclasses that compute the same function faster for inference.
    """

    num_classes: int = 21841
    variant: Literal["full", "standard"] = "full"
    revision: Literal["released", "symbol2016", "modern"] = "released"
    width: float = 1.0  # factor of the filters of every layer, for small machines
    dtype: Any = jnp.float32  # of convolutions and activations
    remat: Literal["none", "conv", "block"] = "none"  # what the backward pass recomputes
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    bn_axis_name: str | None = None  # devices to normalise over; None: each by itself, as in 2015
    bn_momentum: float | None = None  # weight of the old moving average; None: the revision's own
    count_padding: bool | None = None  # of average pools; None: the revision's own
    frozen: tuple[str, ...] = ()  # parts that normalise by moving statistics in training too
    fixed_statistics: bool = False  # all parts do

    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b K"]:
        return self.outputs(images, train)[0]

    @nn.compact
    def outputs(
        self, images: Float[Array, "b h w 3"], train: bool = False
    ) -> tuple[Float[Array, "b K"], Float[Array, "b f"]]:
        """Return the logits, and the features that they are computed from; both are float32."""
        check_size(self.revision, *images.shape[1:3])
        x = images.astype(self.dtype)
        x = self.part(
            "stem", lambda self, x: self.stem(x, self.in_training(train, "stem")), x
        )  # 1/8 of the size
        x = self.part("blocks", lambda self, x: self.blocks(x, train), x)  # 1/32 of the size
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [b, 1024] at width 1
        self.sow("intermediates", "flatten", features)
        head = Dense(self.num_classes, self.dtype, self.kernel_init, name="fc1")
        return head(features), features

    def stem(self, x: Array, train: bool) -> Array:
        conv1, conv2red, conv2 = WIDTHS[self.variant].stem

        def first(self: "InceptionBN", x: Array) -> Array:
            x = self.unit(x, conv1, "conv1", train, kernel=7, stride=2)
            return self.pool(with_stored_gradient(x), "max", "pool1", stride=2)

        def second(self: "InceptionBN", x: Array) -> Array:
            x = self.unit(x, conv2red, "conv2red", train)
            x = self.unit(x, conv2, "conv2", train, kernel=3)
            return self.pool(with_stored_gradient(x), "max", "pool2", stride=2)

        for layers in (first, second):
            x = recomputed(layers, self.remat)(self, x)
        return x

    def blocks(self, x: Array, train: bool) -> Array:
        for name, filters in WIDTHS[self.variant].blocks.items():
            kind: Any = _mixed if isinstance(filters, Mixed) else _reduction
            train_block = self.in_training(train, name)
            block = functools.partial(kind, name=name, filters=filters, train=train_block)
            x = recomputed(block, self.remat)(self, x)
            self.sow("intermediates", f"ch_concat_{name}_chconcat", x)
        return x

    def in_training(self, train: bool, part: str) -> bool:
        """Return whether a part normalises by the batch."""
        return train and not self.fixed_statistics and part not in self.frozen

    def unit(
        self,
        x: Array,
        filters: int,
        name: str,
        train: bool,
        kernel: int = 1,
        stride: int = 1,
        average: str = "",
    ) -> Array:
        """Convolution, BatchNorm and ReLU; `filters` are those at width 1.

        `average` names an average pool in front. It is computed behind the convolution of 1x1, but
        before the bias. That gives the same, and there are fewer channels.
        """
        x, bias = self.convolution(name, scaled(filters, self.width), kernel, stride)(x)
        if average:
            x = self.pool(x, "avg", average, padding=1)
        x = nn.relu(self.normalise(x, bias, name, train))
        self.sow("intermediates", f"relu_{name}", x)
        return x

    def pool(self, x: Array, kind: str, name: str, stride: int = 1, padding: int = 0) -> Array:
        """Pool by windows of 3x3."""
        ceil = REVISIONS[self.revision].ceil_pools
        height, width = (pool_padding(size, stride, padding, ceil) for size in x.shape[1:3])
        if kind == "max":
            x = max_pool(x, stride, (height, width))
        else:
            x = self.average_pool(x, (height, width))
        self.sow("intermediates", name, x)
        return x

    # What a subclass may compute in another way

    @property
    def counts_padding(self) -> bool:
        """Whether average pools divide by 9 at the border too."""
        own = REVISIONS[self.revision].count_padding
        return own if self.count_padding is None else self.count_padding

    def part(self, name: str, layers: Callable[[Self, Array], Array], x: Array) -> Array:
        """Compute a part of the network, "stem" or "blocks"."""
        return layers(self, x)

    def convolution(self, name: str, filters: int, kernel: int, stride: int) -> nn.Module:
        """Make a layer that returns the convolution, and the bias that is not added yet."""
        return Convolution(
            filters, kernel, stride, self.dtype, self.kernel_init, name=f"conv_{name}"
        )

    def normalise(self, x: Array, bias: Array, name: str, train: bool) -> Array:
        """Add the bias and normalise."""
        own = REVISIONS[self.revision]
        momentum = own.momentum if self.bn_momentum is None else self.bn_momentum
        over = self.bn_axis_name
        norm = BatchNorm(
            own.epsilon, momentum, own.fixed_gamma, over, self.dtype, name=f"bn_{name}"
        )
        return norm(x, bias, train)

    def average_pool(self, x: Array, padding: Padding) -> Array:
        return average_pool(x, padding, count_padding=self.counts_padding)


def _mixed(net: InceptionBN, x: Array, name: str, filters: Mixed, train: bool) -> Array:
    one = net.unit(x, filters.one, f"{name}_1x1", train)
    three = net.unit(x, filters.three_reduce, f"{name}_3x3_reduce", train)
    three = net.unit(three, filters.three, f"{name}_3x3", train, kernel=3)
    double = net.unit(x, filters.double_reduce, f"{name}_double_3x3_reduce", train)
    double = net.unit(double, filters.double, f"{name}_double_3x3_0", train, kernel=3)
    double = net.unit(double, filters.double, f"{name}_double_3x3_1", train, kernel=3)
    average = f"avg_pool_{name}_pool"
    if filters.pool == "max":
        x, average = net.pool(x, "max", f"max_pool_{name}_pool", padding=1), ""
    projection = net.unit(x, filters.projection, f"{name}_proj", train, average=average)
    return jnp.concatenate([one, three, double, projection], axis=-1)


def _reduction(net: InceptionBN, x: Array, name: str, filters: Reduction, train: bool) -> Array:
    three = net.unit(x, filters.three_reduce, f"{name}_3x3_reduce", train)
    three = net.unit(three, filters.three, f"{name}_3x3", train, kernel=3, stride=2)
    double = net.unit(x, filters.double_reduce, f"{name}_double_3x3_reduce", train)
    double = net.unit(double, filters.double, f"{name}_double_3x3_0", train, kernel=3)
    double = net.unit(double, filters.double, f"{name}_double_3x3_1", train, kernel=3, stride=2)
    padding = REVISIONS[net.revision].reduction_pool_padding
    pool = net.pool(x, "max", f"max_pool_{name}_pool", stride=2, padding=padding)
    return jnp.concatenate([three, double, pool], axis=-1)
