"""Recognise what a source is by looking at it, before anything is read."""

from collections.abc import Sequence
from pathlib import Path

from i21k.data.sources import listed
from i21k.data.sources.base import EXPECTED, ImageSource
from i21k.data.sources.given import advice_if_missing, expand, refuse_address
from i21k.data.sources.recognise_file import recognise_file
from i21k.data.sources.recognise_folder import recognise_folder
from i21k.data.sources.recognise_shards import recognise_shards
from i21k.data.sources.recognised import Recognised, Wanted, choose_splits, of_splits
from i21k.data.sources.tables import Labels
from i21k.errors import UserError

__all__ = ["Recognised", "Wanted", "open_source", "recognise"]

_NOTHING = Wanted()


def open_source(path: str | Path, labels: Labels | None = None) -> ImageSource:
    """Recognise a source that has no splits.

    Raises:
        UserError: as `recognise` does, or if it has several splits.
    """
    sources = recognise([path], labels).sources
    if len(sources) != 1:
        raise UserError(
            f"Source {path} has the splits {', '.join(sources)}; expected one. Give one of its "
            "folders."
        )
    return next(iter(sources.values()))


def recognise(
    paths: Sequence[str | Path], labels: Labels | None = None, wanted: Wanted = _NOTHING
) -> Recognised:
    """Recognise the layout of a source, and find its size and (where that is cheap) its classes.

    Args:
        paths: a file, a folder or `-` for a list of files on standard input; or the shards of a
            WebDataset or of a Parquet dataset, of which each may be a pattern.
        labels: of the files, for a tar or folder of images without class folders.
        wanted: what the user says about the layout.

    Raises:
        UserError: if it does not exist, is empty or damaged, or its layout is ambiguous.
    """
    for path in paths:
        refuse_address(str(path))
    if [str(path) for path in paths] == [listed.STANDARD_INPUT]:
        lists = listed.standard_input_sources(listed.read_standard_input(), wanted.names)
        chosen, notes = choose_splits(Path("-"), lists, wanted, lambda split: True)
        return of_splits(dict(chosen), notes, "list on standard input")
    found = [match for path in paths for match in expand(path)]
    first = Path(paths[0])
    try:
        if len(found) > 1 or found[0] != first:
            return recognise_shards(first, found, labels, wanted)
        if first.is_dir():
            return recognise_folder(first, labels, wanted)
        if first.is_file():
            return recognise_file(first, labels, wanted)
    except OSError as error:
        raise UserError(f"Source {first} cannot be read ({error}). {EXPECTED}") from error
    state = "is not a file or folder" if first.exists() else "does not exist"
    raise UserError(f"Source {first} {state}. {advice_if_missing(first) or EXPECTED}")
