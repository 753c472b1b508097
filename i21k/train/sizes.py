"""Image sizes that change during training: `"96@0 128@0.3 160@0.6 192@0.9"`.

A number after the @ is the fraction of the run's steps from which the size before it holds. The
size of a step therefore depends on the step alone, and a run that is resumed has the same sizes.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

MOST_PX = 4096  # our choice: larger ones are typing errors
FORM = "an integer, or sizes by fraction of the run: 96@0 128@0.3"


class Stage(NamedTuple):
    """A part of a run with one image size."""

    size: int  # px
    start: float  # fraction of the steps of the run, 0 to below 1


class Segment(NamedTuple):
    """Consecutive steps with one image size."""

    first: int  # steps done before it
    stop: int  # steps done after it
    size: int  # px


def read_sizes(value: int | str) -> tuple[Stage, ...]:
    """Read the value of `image_size`.

    Raises:
        ValueError: naming the part that has another form, or the order that is wrong.
    """
    if isinstance(value, int):
        return (Stage(value, 0.0),)
    stages = []
    for part in value.split():
        if not (match := re.fullmatch(r"(\d+)@(\d*\.?\d+)", part)):
            raise ValueError(f"cannot read {part!r}")
        stages.append(Stage(int(match[1]), float(match[2])))
    if not stages:
        raise ValueError("there is no size")
    if stages[0].start:
        raise ValueError(f"the first size starts at {stages[0].start:g}, not at 0")
    for before, after in itertools.pairwise(stages):
        if not before.start < after.start < 1:
            raise ValueError(f"{after.start:g} is not between {before.start:g} and 1")
    return tuple(stages)


def sizes_form(value: int | str) -> str | None:
    """Return what is wrong with a value of `image_size`, or None."""
    try:
        stages = read_sizes(value)
    except ValueError as error:
        return f"Use {FORM} ({error})."
    fits = all(0 < stage.size <= MOST_PX for stage in stages)
    return None if fits else f"Use sizes above 0 px, at most {MOST_PX:,} px."


def largest(value: int | str) -> int:
    """Return the largest size (px): what a step needs most memory for."""
    return max(stage.size for stage in read_sizes(value))


def last(value: int | str) -> int:
    """Return the size at the end of the run (px)."""
    return read_sizes(value)[-1].size


def size_at(value: int | str, step: int, num_steps: int) -> int:
    """Return the size of the images of a step (px).

    Args:
        value: of `image_size`.
        step: steps done before it.
        num_steps: of the whole run.
    """
    stages = read_sizes(value)
    return next(s.size for s in reversed(stages) if round(s.start * num_steps) <= step)


def segments(value: int | str, first: int, stop: int, num_steps: int) -> Iterator[Segment]:
    """Yield the parts of the steps from `first` up to `stop` that have one size each."""
    starts = {round(stage.start * num_steps) for stage in read_sizes(value)}
    ends = [first, *sorted(s for s in starts if first < s < stop), stop]
    for begin, end in itertools.pairwise(ends):
        yield Segment(begin, end, size_at(value, begin, num_steps))


def describe(value: int | str, num_steps: int) -> str:
    """Return the sizes for people, with the step at which each one starts."""
    stages = read_sizes(value)
    texts = [f"{s.size} px from step {round(s.start * num_steps):,}" for s in stages[1:]]
    return ", ".join([f"{stages[0].size} px", *texts])
