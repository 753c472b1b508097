"""Tiny-ImageNet (200 classes, 64 px) with a half-wide Inception-BN: real images on a small machine.

Commands:  i21k pack tiny_imagenet/train --out data/tiny_imagenet --name tiny_imagenet
           i21k pack tiny_imagenet/val --out data/tiny_imagenet --name tiny_imagenet --split val
           python launch.py --config configs/tiny_imagenet.py
Source:    our choice
Hours:     40 minutes on two CPU cores
Accuracy:  27.5 % top-1, 55.1 % top-5 on validation images
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.epochs = 12
    config.devices = 1
    config.image_size = 64
    config.data.directory = "data/tiny_imagenet"
    config.data.crop_fraction = 1.0  # evaluate on the whole image: 64 px are few enough
    config.data.min_area = 0.35  # smaller crops need a longer run
    config.model.width = 0.5
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.weight_decay = 2e-4
    return config
