"""Tiny-ImageNet (200 classes, 64 px) on two CPU cores within the hour: real pictures, a real learning curve.

i21k pack tiny_imagenet/train --out data/tiny_imagenet --name tiny_imagenet
i21k pack tiny_imagenet/val --out data/tiny_imagenet --name tiny_imagenet --split val
python launch.py --config configs/tiny_imagenet.py
"""

from ml_collections import ConfigDict

from configs.i21k_inception import get_config as get_base_config


def get_config() -> ConfigDict:
    config = get_base_config()
    config.epochs = 12
    config.batch_size = 64
    config.devices = 1
    config.image_size = 64
    config.data.directory = "data/tiny_imagenet"
    config.data.crop = "region"
    config.data.crop_fraction = 1.0  # evaluate on the whole picture: 64 px are few enough
    config.data.min_area = 0.35  # for so short a run
    config.model.variant = "standard"
    config.model.width = 0.5
    config.model.remat = "none"
    config.model.init = "he_normal"
    config.model.bn_momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 2e-4
    config.optimizer.decay = "kernels"
    config.log.every_steps = 50
    config.log.keep_checkpoints = 2
    return config
