"""Write the report: evaluate what is not evaluated yet, and render the page from files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from i21k import files, log
from i21k.errors import UserError
from i21k.evaluation import stored
from i21k.evaluation.evaluate import BATCH_SIZE
from i21k.evaluation.report import compare, page
from i21k.trained import TrainedModel

Generality = Callable[[TrainedModel], float | None]  # of the hedged answers of a model


def write_report(
    paths: Sequence[Path],
    out: Path,
    data: Path | None = None,
    split: str = "val",
    *,
    load: Callable[[Path], TrainedModel],
    generality: Generality = lambda model: None,
    batch_size: int = BATCH_SIZE,
    sizes_of: str | None = None,
    again: bool = False,
) -> int:
    """Write the page about a run, or the page that compares several.

    Args:
        paths: working directories of runs, or files of models.
        out: the HTML file.
        data: evaluate on this dataset what is not evaluated on it yet. None: use what is there.
        split: of the data.
        load: loads a model. It is called only with data.
        generality: returns how general hedged answers have to be.
        batch_size: changes only speed and memory.
        sizes_of: split whose labels are counted, see `evaluate_and_store`.
        again: evaluate again even if nothing has changed.

    Returns:
        Bytes of the file.

    Raises:
        UserError: if a path is no run and no model, or the data cannot be used.
    """
    for path in paths:
        if not path.is_dir() and not path.is_file():
            raise UserError(f"there is no {path}. Give the working directory of a run.")
    found = []
    for path in paths:
        directory = stored.find_stored(path, split)
        if data is not None:
            model, directory = load(path), stored.directory_of(path, split)
            if again or not stored.is_current(directory, model, data, split):
                stored.evaluate_and_store(
                    model, data, directory, split, batch_size, sizes_of, generality(model)
                )
            else:
                log.note(f"{directory} has the evaluation of this checkpoint; it is used")
        elif directory is None and not (path / "metrics.csv").exists():
            raise UserError(
                f"{path} has no metrics of a run and no evaluation on split {split!r}. Give the"
                " working directory of a run, or a model with --checkpoint and --data."
            )
        found.append(None if directory is None else stored.read_stored(directory))
    if len(paths) == 1:
        text = page.run_page(paths[0], found[0], data)
    else:
        text = compare.compare_page(paths, found)
    files.write_text(out, text)
    return len(text.encode("utf-8"))
