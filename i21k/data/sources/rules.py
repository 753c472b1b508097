"""How the class of an image follows from the path of its file."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from i21k.errors import UserError

SYNSET = re.compile(r"n\d{8}")
# What people call their splits, and what we call them.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGENET21K_P = {  # the trees of imagenet21k_resized.tar.gz
    "imagenet21k_train": "train",
    "imagenet21k_val": "val",
    "imagenet21k_small_classes": "small_classes",
}


class Rule(Protocol):
    """Gives the class of a file."""

    def split(self, name: str) -> tuple[str, str]:
        """Return the class id of a file and its name in the class; no class id if it has none."""


class SynsetFolders(NamedTuple):
    """The class is the innermost folder that is named by a synset id."""

    def split(self, name: str) -> tuple[str, str]:
        parts = name.split("/")
        for at in range(len(parts) - 2, -1, -1):
            if SYNSET.fullmatch(parts[at]):
                return parts[at], "/".join(parts[at + 1 :])
        return "", name

    def __str__(self) -> str:
        return "folders named by synset ids"


class FolderLevel(NamedTuple):
    """The class is the folder at a level: 1 is a top folder."""

    level: int

    def split(self, name: str) -> tuple[str, str]:
        parts = name.split("/")
        if len(parts) <= self.level:
            return "", name
        return parts[self.level - 1], "/".join(parts[self.level :])

    def __str__(self) -> str:
        return "class folders" if self.level == 1 else f"folders at level {self.level}"


class Tree(NamedTuple):
    """A folder of a source whose images are a split."""

    root: str  # path below the source; empty for all of it
    rule: Rule | None  # None: its images are in no folder, so labels must be given


# Words beside the split in a folder's name, and more names of splits that are only clear there.
_BESIDE = frozenset({"set", "data", "dataset", "split", "images", "image", "imgs", "img"})
_GLUED = re.compile(r"(?<=[a-z])(set|data|images)$")
SPLIT_FOLDERS = SPLITS | {"dev": "val", "eval": "val", "evaluation": "val"}


def split_of(folder: str) -> str:
    """Return the split that a folder's name stands for; empty if it is none.

    `training_set`, `val2017` and `testset` are splits too.
    """
    if known := IMAGENET21K_P.get(folder):
        return known
    words = [word for word in re.findall(r"[^\W\d_]+", folder.lower()) if word not in _BESIDE]
    return SPLIT_FOLDERS.get(_GLUED.sub("", words[0]), "") if len(words) == 1 else ""


def find_trees(source: object, folders: Iterable[str], *, strip: bool) -> dict[str, Tree]:
    """Find splits and classes in the paths of all folders that hold files.

    Args:
        source: its name, for messages.
        folders: paths below the source; empty for the source itself.
        strip: whether a folder around everything is only a wrapper, as in an archive.

    Returns:
        The tree of each split; the name of the split is empty if the source has no splits.

    Raises:
        UserError: if it is not clear what the classes are. It names the option that makes it clear.
    """
    inside = [parts for folder in folders if (parts := PurePosixPath(folder).parts)]
    for parent in _split_parents(inside):  # what is directly in it is beside the splits
        inside = [parts for parts in inside if parts != parent[: len(parts)]]
    wrapper = _wrapper(inside)
    depth = len(wrapper)
    tops: dict[str, list[tuple[str, ...]]] = {}
    for parts in inside:
        tops.setdefault(parts[depth], []).append(parts[depth + 1 :])
    splits = {top: split for top in tops if (split := split_of(top))}
    if splits and len(splits) == len(tops):
        return _split_trees(source, wrapper, splits, tops)
    _refuse_splits_beside(source, inside)
    _refuse_split_and_others(source, splits, tops)
    if (rule := _synset_rule(source, inside, depth)) is not None:
        return {"": Tree("", rule)}
    if not inside:
        return {"": Tree("", None)}
    if wrapper and not strip:
        others = ", ".join(sorted(tops)[:3])
        if len(tops) == 1:
            return {"": Tree("", FolderLevel(1))}
        raise UserError(
            f"Source {source} has the one class {wrapper[0]!r} by its top folders. Give "
            f"--class-level {depth + 1} to make classes of {others}, or --class-level 1 for "
            "one class."
        )
    return {"": Tree("", FolderLevel(depth + 1 if strip else 1))}


def _split_parents(inside: list[tuple[str, ...]]) -> dict[tuple[str, ...], set[str]]:
    """Return the folders that hold folders of several splits, with these splits."""
    found: dict[tuple[str, ...], set[str]] = {}
    for parts in inside:
        for at, part in enumerate(parts):
            if split := split_of(part):
                found.setdefault(parts[:at], set()).add(split)
    return {p: splits for p, splits in found.items() if len(splits) > 1 and "train" in splits}


def _refuse_splits_beside(source: object, inside: list[tuple[str, ...]]) -> None:
    """Refuse folders of splits that are not alone, since their images would become one split."""
    parents = _split_parents(inside)
    if len(parents) > 1:
        first, second, *_ = ("/".join(parent) or str(source) for parent in parents)
        raise UserError(
            f"Source {source} has folders of splits in several folders, such as {first} and "
            f"{second}. Move them to the top (train/{PurePosixPath(first).name}), give one of "
            "these folders as SOURCE, or --as class-folders to make one split of all."
        )
    for where, splits in parents.items():
        depth = len(where)
        other = next(p for p in inside if p[:depth] != where or not split_of(p[depth]))
        at = next((k for k in range(depth) if other[k : k + 1] != where[k : k + 1]), depth)
        beside = "/".join(other[: at + 1])
        root = f" in {'/'.join(where)}" if where else ""
        advice = f"Give {'/'.join((str(source), *where))}" if where else f"Remove {beside}"
        raise UserError(
            f"Source {source} has the splits {', '.join(sorted(splits))}{root} and also {beside}. "
            f"{advice}, or give --as class-folders if all of them are classes."
        )


def _refuse_split_and_others(
    source: object, splits: Mapping[str, str], tops: Mapping[str, list[tuple[str, ...]]]
) -> None:
    """Refuse a folder such as `train` with folders in it beside others that are no splits."""
    for top in splits:
        if top.lower() in SPLITS and all(tops[top]):
            other = next(name for name in sorted(tops) if name not in splits)
            raise UserError(
                f"Source {source} has the folder {top} with folders in it, and also {other}. "
                f"Rename {other} to val or test if it is a split, remove it, or give --as "
                "class-folders if both are classes."
            )


def _synset_rule(source: object, inside: list[tuple[str, ...]], depth: int) -> "Rule | None":
    """Return the rule for folders named by synset ids; None if there are none.

    Raises:
        UserError: if most folders are others.
    """
    found = {p: [at for at, part in enumerate(p) if SYNSET.fullmatch(part)] for p in inside}
    others = [parts for parts, levels in found.items() if not levels]
    levels = {level for of_folder in found.values() for level in of_folder}
    if not levels:
        return None
    if others and levels == {depth} and all(len(parts) > depth for parts in others):
        return FolderLevel(depth + 1)  # some classes are synsets and others are not
    if len(others) > len(inside) - len(others):
        raise UserError(
            f"Source {source} has {len(inside) - len(others)} folders in folders named by synset "
            f"ids and {len(others)} others, such as {'/'.join(others[0])}. Give --as "
            "synset-folders to pack only the former, or --class-level 1 for the top folders."
        )
    return SynsetFolders()


def _wrapper(inside: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders around everything, before the first that is a split or a class."""
    common: list[str] = []
    shortest = min(map(len, inside), default=0)
    for at in range(shortest - 1):
        name = inside[0][at]
        if any(parts[at] != name for parts in inside) or split_of(name) or SYNSET.fullmatch(name):
            break
        common.append(name)
    return tuple(common)


def _split_trees(
    source: object,
    wrapper: tuple[str, ...],
    splits: Mapping[str, str],
    tops: Mapping[str, list[tuple[str, ...]]],
) -> dict[str, Tree]:
    trees: dict[str, Tree] = {}
    for top, split in sorted(splits.items(), key=lambda item: list(_ORDER).index(item[1])):
        if split in trees:
            raise UserError(
                f"Source {source} has two folders for the split {split!r}: "
                f"{PurePosixPath(trees[split].root).name} and {top}. Remove one."
            )
        below = [parts for parts in tops[top] if parts]
        has_synsets = any(SYNSET.fullmatch(part) for parts in below for part in parts)
        rule = SynsetFolders() if has_synsets else FolderLevel(1) if below else None
        trees[split] = Tree("/".join((*wrapper, top)), rule)
    return trees


_ORDER = ("train", "val", "test", "small_classes")  # the first split decides the class list
