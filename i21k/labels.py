"""The ordered list of classes that a dataset, a model and an export agree on."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from i21k import files
from i21k.errors import UserError

_SYNSET = re.compile(r"n\d{8}(?=[\s,;:]|$)")
_HEADER = re.compile(r"(wnid|synset|class|label|id)\w*[\s,;]", re.IGNORECASE)
# In `ID<TAB>NAME` a number beside other words of the ID is a part of it.
_NUMBERED = re.compile(r"(\d{1,9})(?:\s*\t|[ ,;:]+(?=[^\t]*$))(.+)")
_NUMBERED_BEHIND = re.compile(r"(.*\S)[\s,;:]+(\d{1,9})")
_LONE_HEADER = re.compile(
    r"(class(es)?|labels?|wnid|synset|id|(class|label)[ _]?(id|name))", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class ClassList:
    """Class ids in label order: label `k` means `ids[k]`.

    For ImageNet the ids are synset ids (`n00004475`).
    """

    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids:
            raise UserError("a class list is empty; expected at least one class id")
        for k, class_id in enumerate(self.ids):
            if not class_id or class_id != class_id.strip() or "\n" in class_id:
                raise UserError(
                    f"class {k} of a class list is {class_id!r}; expected a non-empty id without "
                    "spaces around it"
                )
        seen: set[str] = set()
        for class_id in self.ids:
            if class_id in seen:
                raise UserError(
                    f"class {class_id!r} is twice in a class list; expected distinct ids"
                )
            seen.add(class_id)

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def label_of(self) -> dict[str, int]:
        """Label of each class id."""
        return {class_id: k for k, class_id in enumerate(self.ids)}

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the ids, one a line: equal hashes mean equal labels."""
        return hashlib.sha256("".join(f"{c}\n" for c in self.ids).encode()).hexdigest()

    @classmethod
    def sorted(cls, ids: Iterable[str]) -> "ClassList":
        """Make the list of the distinct `ids` in ascending order."""
        return cls(tuple(sorted(set(ids))))

    @classmethod
    def read(cls, path: str | Path) -> "ClassList":
        """Read one id a line. Empty lines are ignored, and so is a byte order mark.

        Of a line that begins with a synset id only that counts, so `synset.txt` with names is fine.
        Of other lines, what is before a tab counts. The `classes.json` of an export is read too.

        Raises:
            UserError: if the file is missing, not text, empty, or a line is not a new class id.
        """
        path = Path(path)
        try:
            content = files.read_given(path)
            is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
            text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"class list {path} cannot be read ({error}); expected one class id a line, in "
                "UTF-8. Save it as such a text file."
            ) from error
        ids_of_json = _from_json(text)
        if ids_of_json is not None:
            lines = ids_of_json
        numbered = {n: line.strip() for n, line in enumerate(lines, 1) if line.strip()}
        has_synsets = any(_SYNSET.match(line) for line in numbered.values())
        if numbered and ids_of_json is None and not has_synsets:
            _refuse_other_formats(path, numbered)
        line_of: dict[str, int] = {}
        for number, line in numbered.items():
            match = _SYNSET.match(line)
            class_id = match.group() if match else line.partition("\t")[0].strip()
            if line[0] in "{[" or line.startswith("# "):
                what = "a comment" if line[0] == "#" else "JSON"
                raise UserError(
                    f"line {number} of class list {path} is {line[:60]!r}, as of {what}; expected "
                    "one class id a line. Remove or rewrite it."
                )
            if has_synsets and not match and _HEADER.match(line):
                raise UserError(
                    f"line {number} of class list {path} is {line!r}; expected a synset id, as in "
                    "other lines. Correct or remove the line."
                )
            if class_id in line_of:
                raise UserError(
                    f"line {number} of class list {path} is class {class_id!r}, as is line "
                    f"{line_of[class_id]}; expected distinct ids. Remove one."
                )
            line_of[class_id] = number
        try:
            return cls(tuple(line_of))
        except ValueError as error:
            raise UserError(f"class list {path}: {error}") from error

    def write(self, path: str | Path) -> None:
        """Write one id a line."""
        Path(path).write_text("".join(f"{c}\n" for c in self.ids), "utf-8")

    def difference(self, other: "ClassList") -> str:
        """Return in one sentence how `other` differs, for error messages; empty if it does not."""
        if self.ids == other.ids:
            return ""
        missing, extra = (
            sorted(set(self.ids) - set(other.ids)),
            sorted(set(other.ids) - set(self.ids)),
        )
        if not missing and not extra:
            at = next(k for k, (a, b) in enumerate(zip(self.ids, other.ids, strict=True)) if a != b)
            return (
                f"same {len(self)} classes in another order, first at label {at}: "
                f"{self.ids[at]} against {other.ids[at]}"
            )
        parts = [f"{len(self)} against {len(other)} classes"]
        parts += [
            f"{len(ids)} only in the {which}, such as {ids[0]}"
            for ids, which in ((missing, "first"), (extra, "second"))
            if ids
        ]
        return "; ".join(parts)


_NUMBERS = "Remove the numbers, or write lines of ID<TAB>NAME if they belong to the ids"


def _count_the_lines(numbers: list[str | None]) -> bool:
    """Return whether numbers are 0 to N-1 or 1 to N in any order, so they are no part of names."""
    found = sorted(int(number) for number in numbers if number)
    return found in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _refuse_other_formats(path: Path, numbered: dict[int, str]) -> None:
    """Refuse lines that are no class ids: a header, numbers beside the ids, quotes or YAML.

    Raises:
        UserError: naming the first such line.
    """
    number, line = next(iter(numbered.items()))
    before = [_NUMBERED.fullmatch(text) for text in numbered.values()]
    behind = [_NUMBERED_BEHIND.fullmatch(text) for text in numbered.values()]
    if _count_the_lines([match and match[1] for match in before]) or (
        all(match and _SYNSET.match(match[2]) for match in before)
    ):
        what = f"a number and an id. {_NUMBERS}"
    elif len(numbered) == 1:  # it may be one class of any name
        return
    elif _LONE_HEADER.fullmatch(line.partition("\t")[0].strip()):
        what = "a header. Remove the line"
    elif _count_the_lines([match and match[2] for match in behind]) and (
        len({match[1] for match in behind if match}) == len(behind)  # not `grade 1`, `grade 2`
    ):
        what = f"an id and a number. {_NUMBERS}"
    elif all(line[0] == line[-1] and line[0] in "\"'" for line in numbered.values()):
        what = "an id in quotes. Remove the quotes"
    elif sum(line.startswith("- ") for line in numbered.values()) >= len(numbered) - 1:
        what = "YAML. Write one class id a line"
    else:
        return
    raise UserError(
        f"line {number} of class list {path} is {line!r}; expected a class id, not {what}."
    )


def _from_json(text: str) -> list[str] | None:
    """Return the ids in the `classes.json` of an export; None if it is something else."""
    if not text.startswith("["):
        return None
    try:
        ids = [entry["id"] for entry in files.parse_json(text)]
    except (ValueError, KeyError, TypeError):
        return None
    return ids if all(isinstance(one, str) and "\n" not in one for one in ids) else None
