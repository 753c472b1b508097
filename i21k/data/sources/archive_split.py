"""Which files of an archive are one split, and what their classes are."""

from i21k.data.sources.base import NO_CLASS, NO_LABEL, counted, why_no_class
from i21k.data.sources.rules import Rule
from i21k.data.sources.tables import Labels
from i21k.data.sources.tar_reader import tidy


class ArchiveSplit:
    """Which files of an archive belong to a split, and their classes.

    Args:
        rule: gives the class of each image.
        root: folder whose files belong to the split; empty for all of the archive.
    """

    def __init__(self, rule: Rule | Labels, root: str) -> None:
        self.rule, self._prefix = rule, f"{root}/" if root else ""

    def is_inside(self, name: str) -> bool:
        """Return whether a file of the archive belongs to the split."""
        return tidy(name).startswith(self._prefix)

    def class_and_name(self, name: str) -> tuple[str, str]:
        """Return the class id of a file and its name in the class; no class id if it has none."""
        return self.rule.split(tidy(name).removeprefix(self._prefix))

    def reason(self, name: str) -> str:
        """Return why a file without a class is skipped."""
        return why_no_class(name, NO_LABEL if isinstance(self.rule, Labels) else NO_CLASS)

    def layout(self, kind: str, num_classes: int | None) -> str:
        """Return the archive as a noun phrase."""
        number = "" if num_classes is None else f", {counted(num_classes, 'class', 'classes')}"
        if isinstance(self.rule, Labels):
            return f"{kind} of images with labels from {self.rule.table}{number}"
        return f"{kind} of {self.rule}{f' in {self._prefix}' if self._prefix else ''}{number}"

    def describe(self) -> dict[str, str]:
        """Return the entry of the manifest."""
        if isinstance(self.rule, Labels):
            return {"labels": self.rule.hash}
        return {"classes_by": f"{self.rule}{f' in {self._prefix}' if self._prefix else ''}"}
