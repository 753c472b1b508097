"""Your own images at 224 px: an Inception-BN from nothing, on one device or several.

Commands:  i21k pack my_images --out data/flowers --val-per-class 10
           python launch.py --config configs/own_images.py:data/flowers
Source:    our choice: the ingredients that help in docs/results.md, "What each ingredient gives"
Hours:     depends on the data: the first lines of the run say it
Accuracy:  depends on the data

The working directory is runs/own_images-flowers, so that two datasets never share one. Without a
path after the colon, the data is in data/own_images. With few images per class, use a smaller
--config.model.width and more epochs.
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config(directory: str = "data/own_images") -> ConfigDict:
    config = default_config()
    config.epochs = 60
    config.batch_size = 64  # divides by 1, 2, 4 and 8 devices, and small data has as many images
    config.image_size = 224
    config.data.directory = directory
    config.data.min_area = 0.2  # smaller crops need more images
    config.data.mirror_order = "alternating"
    config.model.revision = "modern"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.05  # of the head, by SGD
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 2e-4
    config.loss.smoothing = 0.1
    config.evaluation.batch_size = 64
    config.log.every_steps = 20
    return config
