"""Run `launch.py` with the network of the fixture `few_blocks`, for tests that start processes."""

import os
import runpy
import sys
from pathlib import Path

from i21k import backend

if __name__ == "__main__":
    # Gloo's threads write to descriptor 1 and mix their lines with ours. Python prints to a
    # duplicate of the descriptor.
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    backend.prepare()
    from i21k.models.inception_bn import WIDTHS

    if port := os.environ.get(
        "ALONE_ON_PORT"
    ):  # one process that adds like several: through Gloo, in the order of its ring
        import jax

        jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)

    standard = WIDTHS["standard"]
    WIDTHS["standard"] = standard._replace(
        blocks={name: standard.blocks[name] for name in ("3a", "3c", "5b")}
    )
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    runpy.run_path(str(root / "launch.py"), run_name="__main__")
