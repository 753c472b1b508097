"""Train by a recipe, or go on with a run that was cut off.

python launch.py --config configs/quickstart.py [--workdir runs/quickstart] [--config.epochs=2 ...]
"""

import sys
from pathlib import Path

from i21k import backend

if __name__ == "__main__":  # loader workers import this file again
    backend.prepare()

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe: a Python file with get_config(). It is executed.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; by default runs/NAME of configs/NAME.py. A run found there goes on.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"error: leftover argument {argv[1]!r}; expected --config, --workdir or --config.KEY=VALUE", file=sys.stderr)
        return 2
    from i21k.train import interruption, loop  # imports JAX, after the flags are known to be right

    logging.set_verbosity(logging.WARNING)  # Orbax tells forty lines a checkpoint
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    try:
        loop.run(_CONFIG.value, _WORKDIR.value or Path("runs") / name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except interruption.Interrupted as interrupted:
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    app.run(main)
