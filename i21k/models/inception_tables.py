"""The numbers of Inception-BN: filters of each variant, and what its revisions do differently.

`full` is the network for 21,841 classes: it has 1.5 times the filters in the bottom. `standard` is
the one for 1,000. `released` is the revision of 2015-10-24, which the published weights belong to.
`symbol2016` is the last revision of MXNet. `modern` is ours: it takes images of any size, and its
BatchNorm has the numbers that are usual today. The parameters of all have the same shapes.

Source: MXNet example/image-classification/symbol_inception-bn{,-full}.py.
"""

from typing import Literal, NamedTuple

from i21k.errors import UserError


class Mixed(NamedTuple):
    """Filters of a block that keeps the size: four branches, concatenated in this order."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: Literal["avg", "max"]
    projection: int


class Reduction(NamedTuple):
    """Filters of a block that halves the size: 3x3, double 3x3, and a max pool of the input."""

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
    """What the revisions do differently."""

    ceil_pools: bool  # sizes 112-56-28-14-7 at 224 px; floor: 112-55-27-14-7
    reduction_pool_padding: int  # of the max pools in 3c and 4e
    count_padding: bool  # whether an average pool divides by 9 at the border too
    epsilon: float
    momentum: float  # weight of the old moving average
    fixed_gamma: bool  # gamma is stored, but 1 is used: it is neither trained nor decayed


REVISIONS = {
    "released": Revision(True, 0, False, 1e-10, 0.1, False),
    "symbol2016": Revision(False, 1, True, 1e-3, 0.9, True),
    "modern": Revision(False, 1, False, 1e-5, 0.9, False),
}


def scaled(filters: int, width: float) -> int:
    """Return the filters of a layer at a width: a multiple of 8, at least 8. Exact at width 1."""
    return filters if width == 1 else max(8, round(filters * width / 8) * 8)


def check_size(revision: str, height: int, width: int) -> None:
    """Check that the pools of a revision fit an image (px).

    The stride-2 convolutions of 3c and 4e round up. The pools beside them round down in `released`,
    so that only even sizes fit there.

    Raises:
        UserError: naming the nearest size that fits.
    """
    for size in (height, width):
        if revision == "released" and (size < 31 or (size + 1) % 32 > 7):
            below = (size + 1) // 32 * 32 + 6
            nearest = max(31, min((below, below + 25), key=lambda fits: abs(fits - size)))
            raise UserError(
                f"The image size is {height} x {width} px, and revision 'released' takes sizes of "
                f"32k-1 to 32k+6 px. Use the nearest, {nearest} px, or revision 'modern'."
            )
        if revision != "released" and size < 32:
            raise UserError(
                f"The image size is {height} x {width} px, and revision {revision!r} takes sizes "
                "from 32 px. Use 32 px or more."
            )
