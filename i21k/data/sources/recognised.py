"""What a source was recognised as, and what the user said about it: the result and its checks."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn, TypeVar

from i21k.data.sources import kaggle
from i21k.data.sources.base import EXPECTED, ImageSource, may_be_image
from i21k.data.sources.rules import SYNSET, FolderLevel, SynsetFolders, Tree, find_trees
from i21k.errors import UserError
from i21k.labels import ClassList

T = TypeVar("T")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


class Wanted(NamedTuple):
    """What the user has given about the layout."""

    layout: str | None = None  # one of layouts.LAYOUTS
    class_level: int | None = None
    splits: tuple[str, ...] | None = None  # to pack; None means all with labels
    names: ClassList | None = None  # class ids by label, for sources with integers


class Recognised(NamedTuple):
    """A source as it was recognised.

    Attributes:
        layout: a noun phrase.
        sources: one for each split. The split is empty if the source has none.
        notes: sentences about what is not packed.
    """

    layout: str
    sources: dict[str, ImageSource]
    notes: tuple[str, ...] = ()


def single(source: ImageSource) -> Recognised:
    """Return a source that has no splits."""
    return Recognised(source.layout, {"": source})


def of_splits(sources: dict[str, ImageSource], notes: tuple[str, ...], kind: str) -> Recognised:
    """Return the sources of the splits, with one noun phrase for all."""
    for source in sources.values():
        source.splits = tuple(sources)
    if list(sources) == [""]:
        return Recognised(sources[""].layout, sources, notes)
    parts = ", ".join(f"{split} ({source.layout})" for split, source in sources.items())
    plural = "split" if len(sources) == 1 else "splits"
    return Recognised(f"{kind} with the {plural} {parts}", sources, notes)


def trees_in(path: Path, folders: Sequence[str], wanted: Wanted, *, strip: bool) -> dict[str, Tree]:
    """Return the tree of each split, as `find_trees` does unless the user has decided it."""
    if wanted.class_level is not None:
        with contextlib.suppress(UserError):  # the level decides what is ambiguous
            if "" not in (found := find_trees(path, folders, strip=strip)):
                level = FolderLevel(wanted.class_level)
                return {
                    s: Tree(tree.root, None if tree.rule is None else level)
                    for s, tree in found.items()
                }
        if wanted.layout != "splits" and not any(
            len(PurePosixPath(folder).parts) >= wanted.class_level for folder in folders
        ):
            raise UserError(
                f"Source {path} has no folders at level {wanted.class_level}. Change --class-level."
            )
        return {"": Tree("", FolderLevel(wanted.class_level))}
    if wanted.layout == "class-folders":
        return {"": Tree("", FolderLevel(1))}
    if wanted.layout == "synset-folders":
        return {"": Tree("", SynsetFolders())}
    trees = find_trees(path, folders, strip=strip)
    if wanted.layout == "splits" and "" in trees:
        raise UserError(f"Source {path} has no folders train and val. Change --as or SOURCE.")
    return trees


def choose_trees(
    path: Path, trees: dict[str, Tree], wanted: Wanted
) -> tuple[dict[str, Tree], tuple[str, ...]]:
    """Return the trees to pack, and notes about the others."""

    def is_packed(split: str) -> bool:
        return split != "small_classes" and (split != "test" or trees[split].rule is not None)

    first = next(iter(trees))
    advice = (
        f"Give --splits {first} if it holds class folders or synset tars, or --labels FILE --split "
        f"{first} if it does not"
    )
    return choose_splits(path, trees, wanted, is_packed, advice)


def choose_splits(
    path: Path,
    found: dict[str, T],
    wanted: Wanted,
    is_packed: Callable[[str], bool],
    advice: str = "Give another SOURCE",
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Return the splits that the user wants, and notes about the others.

    Args:
        path: of the source, for messages.
        found: the splits; the name is empty if the source has none.
        wanted: what the user has given.
        is_packed: whether a split is packed if the user has given none.
        advice: what to do if no split is packed, without the full stop.

    Raises:
        UserError: if there is no such split, or none is packed.
    """
    if "" in found:
        return found, ()
    if wanted.splits is not None:
        if missing := [split for split in wanted.splits if split not in found]:
            raise UserError(
                f"Source {path} has no split {missing[0]!r}; it has {', '.join(found)}. "
                "Change --splits."
            )
        return {split: found[split] for split in wanted.splits}, ()
    chosen = {split: what for split, what in found.items() if is_packed(split)}
    left = [split for split in found if split not in chosen]
    if not chosen:
        raise UserError(
            f"Source {path} has only the split {' and the split '.join(left)}, which is not packed "
            f"without --splits or labels. {advice}."
        )
    return chosen, tuple(f"split {split}: not packed" for split in left)


def ask_if_one_class(path: Path, recognised: Recognised, wanted: Wanted) -> Recognised:
    """Refuse a source with one class, which is seldom meant, unless the user has decided it.

    Raises:
        UserError: naming the class.
    """
    layout = "synset-tars" if recognised.layout.endswith("synset tar") else "class-folders"
    found = [source.list_class_ids() for source in recognised.sources.values()]
    class_ids = {class_id for ids in found for class_id in ids or ()}
    if (
        len(class_ids) == 1
        and None not in found
        and not SYNSET.fullmatch(next(iter(class_ids)))
        and wanted == Wanted(splits=wanted.splits)
    ):
        raise UserError(
            f"Source {path} has the one class {class_ids.pop()!r}. Give another folder, "
            "--class-level N to make classes of the folders at level N (1 is the top), or "
            f"--as {layout} if one class is right."
        )
    return recognised


def refuse_disjoint(path: Path, sources: Mapping[str, ImageSource], wanted: Wanted) -> None:
    """Refuse a split that has no class of the first split, unless the class list is given.

    Its folders have another meaning there, as `val/images` in Tiny ImageNet. Synset ids have only
    one meaning: the splits of miniImageNet have different classes on purpose.

    Raises:
        UserError: naming the split.
    """
    (first, first_source), *others = sources.items()
    of_first = first_source.list_class_ids()
    for split, source in others:
        class_ids = source.list_class_ids() if "labels" not in source.described else ()
        if (
            wanted.names is None
            and of_first
            and class_ids
            and not {*of_first} & {*class_ids}
            and not all(map(SYNSET.fullmatch, (*of_first, *class_ids)))
        ):
            raise UserError(
                f"Source {path} has the class {class_ids[0]!r} in {split}, and no class of {split} "
                f"is in {first}. Give --classes FILE with all class ids if the splits have "
                f"different classes. If not, give --splits {first}, and then pack the folder of "
                f"{split} with --labels FILE --split {split} into the same --out."
            )


def refuse_split_without_classes(
    path: Path, folder: str | Path, split: str, chosen: Iterable[str]
) -> NoReturn:
    """Refuse a split whose images are in no class folders.

    Raises:
        UserError: always.
    """
    others = ",".join(other for other in chosen if other != split)
    rest = f", and the others with --splits {others}" if others else ""
    raise UserError(
        f"Source {path} has no class folders in {folder}. Pack that folder by itself with --labels "
        f"FILE{rest}."
    )


def refuse_flat(path: Path, kind: str, names: Sequence[str]) -> None:
    """Refuse files without class folders: images, a packed dataset, or no images at all.

    Args:
        path: of the source, for messages.
        kind: what the source is, such as "folder".
        names: of its files. Nothing is refused if there are none.

    Raises:
        UserError: naming what the files are, and what to give instead.
    """
    if not names:
        return
    images = [name for name in names if may_be_image(name)]
    if "dataset_info.json" in names:
        raise UserError(
            f"Source {path} is a packed dataset already. Give the images that it was made of."
        )
    if not images:
        archive = next((name for name in names if name.lower().endswith(_ARCHIVES)), "")
        advice = f"Unpack {archive}, or give it as SOURCE." if archive else EXPECTED
        raise UserError(f"Source {path} holds no images, only files such as {names[0]}. {advice}")
    names = images
    if names[0].startswith("ILSVRC2012_test_"):
        raise UserError(
            f"Source {path} has the test images of ILSVRC 2012, whose labels are not published. "
            "Give the folder with train and val."
        )
    table = "FILE"
    if kaggle.labels_of_val(names, path) is not None:
        table = "ilsvrc2012-val"
    raise UserError(
        f"Source {path} is a {kind} of images without class folders, such as {names[0]}. Give "
        f"--labels {table}."
    )
