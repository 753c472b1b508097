"""Resolve what the user gives as SOURCE: patterns become files, and addresses are refused."""

import re
from pathlib import Path

from i21k.errors import UserError

_URL = re.compile(r"(\w[\w+.-]+)::?/+")
_PIPE = re.compile(r"pipe:")
_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
_HOW = {  # what copies files to a disk
    "s3": "aws s3 sync",
    "gs": "gcloud storage rsync",
    "hf": "hf download --repo-type dataset",
    "http": "curl -O",
    "https": "curl -O",
}


def refuse_address(path: str) -> None:
    """Refuse what is no path.

    Raises:
        UserError: naming a program that copies the files to a disk.
    """
    if Path(path).exists():
        return
    if _PIPE.match(path):
        raise UserError(
            f"Source {path} is a command; expected files. Run it, and give the files that it "
            "writes."
        )
    if not (match := _URL.match(path)):
        return
    scheme = match.group(1).lower()
    if scheme == "file":
        raise UserError(
            f"Source {path} is an address; expected a path. Give /{path[match.end() :]}."
        )
    how = f"for example with `{_HOW[scheme]}`, " if scheme in _HOW else ""
    raise UserError(
        f"Source {path} is an address ({scheme}); expected files. Copy it to a disk first, {how}or "
        "mount it, and give the folder."
    )


def advice_if_missing(path: Path) -> str:
    """Return what to do if a path does not exist and is written as a dataset of Hugging Face."""
    if path.exists() or not _HUB_NAME.fullmatch(str(path)) or path.parent.exists():
        return ""
    return f"Download a dataset of Hugging Face first: `hf download --repo-type dataset {path}`."


def expand(path: str | Path) -> list[Path]:
    """Return the files that match a pattern such as `shard-{0000..0063}.tar` or `*.tar`.

    Raises:
        UserError: if one of a range is missing.
    """
    text = str(path)
    if Path(text).exists():
        return [Path(text)]
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", text):
        begin, end = match.groups()
        before, after = text[: match.start()], text[match.end() :]
        numbers = range(int(begin), int(end) + 1)
        files = [file for n in numbers for file in expand(f"{before}{n:0{len(begin)}d}{after}")]
        if missing := [file for file in files if not file.exists()]:
            raise UserError(
                f"Source {text} names {len(files)} files, and {missing[0]} does not exist. "
                "Download it, or change the range."
            )
        if files:
            return files
    if any(character in text for character in "*?["):
        files = sorted(Path(Path(text).anchor).glob(text.removeprefix(Path(text).anchor)))
        if files:
            return files
    return [Path(text)]


def refuse_gaps(path: Path, files: list[Path]) -> None:
    """Refuse a folder whose numbered files are not all there, as after an aborted download.

    Names such as `train-00001-of-00004.parquet` contain their number; other numbers must
    have no gap.

    Raises:
        UserError: naming the first that is missing.
    """
    series: dict[tuple[str, str, str], dict[int, int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*?)(\d{2,})(-of-\d+)?(\.[.\w]+)", file.name):
            before, number, of_all, after = match.groups("")
            kind = (str(file.parent / before), of_all, after)
            series.setdefault(kind, {})[int(number)] = len(number)
    for (before, of_all, after), numbers in series.items():
        least, most = min(numbers), max(numbers)
        if of_all:
            least, most = min(least, 0), max(most, int(of_all.removeprefix("-of-")) - 1)
        if missing := next((n for n in range(least, most + 1) if n not in numbers), None):
            digits = next(iter(numbers.values()))
            name = f"{Path(before).name}{missing:0{digits}d}{of_all}{after}"
            raise UserError(
                f"Source {path} has {len(numbers)} of {most - least + 1} numbered files, and "
                f"{name} is not there. Download it, or give the files as a "
                f"pattern: '{before}*{after}'."
            )
