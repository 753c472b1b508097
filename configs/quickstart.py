"""A narrow Inception-BN on pictures that the project draws itself: the whole path in under four minutes on two CPU cores.

python launch.py --config configs/quickstart.py
"""

from ml_collections import ConfigDict

from configs.i21k_inception import get_config as get_base_config


def get_config() -> ConfigDict:
    config = get_base_config()
    config.epochs = 10
    config.batch_size = 32  # so small a data set needs the steps
    config.devices = 1
    config.image_size = 64
    config.data.directory = "data/quickstart"
    config.data.synthetic_per_class = 200  # of 25 classes, and a fifth as many to validate
    config.data.crop = "plain"
    config.model.variant = "standard"
    config.model.width = 0.25
    config.model.remat = "none"
    config.model.init = "he_normal"
    config.model.bn_momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay = "kernels"
    config.log.every_steps = 50
    config.log.keep_checkpoints = 2
    return config
