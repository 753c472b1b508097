"""Write the variables of a network as safetensors, with a `config.json` beside them.

`i21k.trained.safetensors` describes the files and reads them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from i21k.checkpoints import Checkpoint
from i21k.trained.safetensors import CONFIG, FORMAT, WEIGHTS, safetensors_package

_NOT_OF_A_MODEL = ("format", "digests", "meta_digest", "clock", "devices")  # in a description


def write_safetensors(folder: Path, variables: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write `model.safetensors` and `config.json` into a folder.

    Args:
        folder: an existing folder.
        variables: nested dict of float arrays, unfolded.
        checkpoint: that they are from; its description is written too.

    Raises:
        UserError: if the package safetensors is not installed.
    """
    save_file = safetensors_package().numpy.save_file
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    save_file(arrays, folder / WEIGHTS, metadata={"format": FORMAT})
    (folder / WEIGHTS).chmod(0o644)  # the package makes it private
    meta = {key: value for key, value in checkpoint.meta.items() if key not in _NOT_OF_A_MODEL}
    config = {"format": FORMAT, "step": checkpoint.step, **meta}
    text = json.dumps(config, indent=1)
    (folder / CONFIG).write_text(text + "\n", encoding="ascii")
