"""A narrow Inception-BN on images that the project draws itself. It shows the whole path.

Command:   python launch.py --config configs/quickstart.py
Source:    our choice
Hours:     under four minutes on two CPU cores
Accuracy:  at least 85 % top-1 over 25 classes, on validation images
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.batch_size = 32  # a larger batch has too few steps on so few images
    config.devices = 1
    config.image_size = 64
    config.data.directory = "data/quickstart"
    config.data.synthetic_per_class = 200  # and a fifth as many for validation
    config.data.crop = "plain"
    config.model.width = 0.25
    return config
