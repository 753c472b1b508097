"""Facts that a recipe for fine-tuning follows from: the parent's description and the data's size.

This file does not import JAX: a recipe is read before JAX starts. `inheritance.py` checks and loads
the parent itself.
"""

import contextlib
from typing import Any, NamedTuple

from i21k.data.format.splits import open_split
from i21k.errors import UserError
from i21k.files import parse_json
from i21k.train import history

_EXPORTED = "config.json"  # of a safetensors export


class ParentFacts(NamedTuple):
    """The description of a trained model."""

    model: dict[str, Any]  # the keys of `config.model` that describe its network
    image_size: int  # px
    crop_fraction: float


def read_parent_facts(init_from: str) -> ParentFacts:
    """Return the description of the network and the images of the model that `init_from` names.

    Raises:
        UserError: if there is no model.
    """
    parent = history.read_parent(init_from)
    paths = history.descriptions(parent.directory)
    if isinstance(parent.which, int):
        paths = [path for path in paths if path.parts[-3] == str(parent.which)]
    for path in (*paths, parent.directory / _EXPORTED):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            found = parse_json(path.read_text("utf-8"))
            model = dict(found["model"] if "model" in found else found["network"])
            images = found.get("preprocessing", found.get("input"))
            model.pop("network", None)
            model["bn_momentum"] = model.get("bn_momentum") or "default"
            return ParentFacts(model, int(images["image_size"]), float(images["crop_fraction"]))
    raise UserError(
        f"{init_from} holds no trained model. Give a run, an imported model or a safetensors"
        " export. To resume a run whose parent is gone, use --resume WORKDIR."
    )


def num_images_of(directory: str, split: str = "train") -> int:
    """Return the size of a packed split.

    Raises:
        UserError: if there is no such split.
    """
    return open_split(directory, split).num_records
