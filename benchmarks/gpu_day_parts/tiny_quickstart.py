"""The quick start with three blocks and few images, to try `quickstart.py` on a slow machine."""

from ml_collections import ConfigDict

from benchmarks import timed_step
from configs import quickstart


def get_config() -> ConfigDict:
    timed_step.few_blocks()
    config = quickstart.get_config()
    config.epochs = 3
    config.batch_size = 8
    config.image_size = 32
    config.data.synthetic_per_class = 2
    config.model.width = 0.125
    config.evaluation.sets = "none"  # one step less to compile
    config.log.every_steps = 1
    return config
