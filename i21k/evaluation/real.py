"""ReaL labels: all classes that are right for each image of ILSVRC's validation set."""

import re
from pathlib import Path

from i21k import files
from i21k.data.format.readers import file_names_in
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.wordnet.class_lists import named

_ILSVRC_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_real(path: str | Path) -> list[list[str]]:
    """Read the ReaL labels (Beyer et al. 2020, arXiv 2006.07159).

    Args:
        path: `real.json` of github.com/google-research/reassessed-imagenet: for each image a list
            of labels of ILSVRC's 1,000 classes.

    Returns:
        The ids of the right classes for each image; may be empty.

    Raises:
        UserError: if the file is something else.
    """
    id_of = dict(enumerate(named("ilsvrc2012").ids))  # a dict has no -1
    try:
        return [
            [id_of[label] for label in labels]
            for labels in files.parse_json(files.read_given(Path(path)))
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Give real.json.") from error
    except UserError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as ReaL labels ({error!r}). Give real.json, a list of numbers"
            " from 0 to 999 for each image."
        ) from error


def right_by_real(real: list[list[str]], split: Split) -> list[list[str]]:
    """Return the right classes of each record, found by its file name.

    Raises:
        UserError: naming a record that is not an image of ILSVRC's validation set.
    """
    right = []
    for record, name in enumerate(file_names_in(split)):
        found = _ILSVRC_VAL.search(name)
        if not found or not 1 <= int(found[1]) <= len(real):
            raise UserError(
                f"record {record} of split {split.split!r} of {split.directory} has the file name "
                f"{name!r}; expected ILSVRC2012_val_00000001 to {len(real):08d}. "
                "Omit --real for other images."
            )
        right.append(real[int(found[1]) - 1])
    return right
