"""What to do with a folder whose images are links to files elsewhere."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from i21k.data.sources.base import counted
from i21k.data.sources.file_reader import LINK_OUTSIDE, walk_folders
from i21k.data.sources.rules import SYNSET
from i21k.data.sources.tar_reader import tar_stem
from i21k.errors import UserError


def refuse_links(path: Path, links: Sequence[Path]) -> None:
    """Refuse a folder whose class folders and tars are all linked from elsewhere.

    Args:
        path: of the source.
        links: its entries that are links out of it. Those to other files are no reason to refuse.

    Raises:
        UserError: saying how to pack what is linked.
    """
    tars = [link for link in links if tar_stem(link.name) and link.is_file()]
    folders = [link for link in links if link.is_dir()]
    missing = [link for link in links if not link.exists()]
    if tars:
        raise UserError(
            f"Source {path} has {counted(len(tars), 'link')} to tars outside of it, such as "
            f"{tars[0].name}, and no classes of its own. {_copy_links(path)}"
        )
    if folders:
        raise UserError(
            f"Source {path} has {counted(len(folders), 'link')} to folders outside of it, such as "
            f"{folders[0].name}, and no classes of its own. "
            f"{follow_links(path, have_folders(folders))}"
        )
    if missing:
        raise UserError(
            f"Source {path} has {counted(len(missing), 'link')} to files or folders that do not "
            f"exist, such as {missing[0].name}, and no classes of its own. Mount or download what "
            f"is linked: {os.path.realpath(missing[0])}."
        )


def are_mostly_links(kinds: Mapping[str, int]) -> bool:
    """Return whether most files were skipped because they are links out of the source.

    Args:
        kinds: number of skipped files by the kind of the reason.
    """
    return kinds.get(LINK_OUTSIDE, 0) > sum(kinds.values()) / 2


def follow_links(path: Path, is_deep: bool) -> str:
    """Return what to do with a source whose images are linked.

    Args:
        path: of the source.
        is_deep: whether a list of the files would give other classes. In a list the class is the
            folder that the file is in, or one that is named by a synset id.
    """
    if is_deep:
        return _copy_links(path)
    return f"Pack them with `find -L {shlex.quote(str(path))} -type f | i21k pack -`."


def have_folders(entries: Iterable[Path]) -> bool:
    """Return whether folders of classes hold files in further folders."""
    folders = [e for e in entries if e.is_dir() and not SYNSET.fullmatch(e.name)]
    return any(files and folder != e for e in folders for folder, _, files in walk_folders(e))


def _copy_links(path: Path) -> str:
    return (
        f"Copy what is linked with `cp -rL {shlex.quote(str(path))} NEW`, and give NEW as SOURCE."
    )
