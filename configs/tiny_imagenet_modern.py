"""Tiny-ImageNet (200 classes, 64 px) by a recipe of today: small images first, and Muon.

Command:   python launch.py --config configs/tiny_imagenet_modern.py
Data:      packed as for `tiny_imagenet.py`
Source:    our choice, after `benchmarks/ladder.py`; Muon by Jordan 2024
Hours:     83 minutes on one CPU core for 20 epochs
Accuracy:  38.4 % top-1, 65.3 % top-5 on validation images
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.epochs = 20
    config.batch_size = 256  # Muon costs as much for any batch
    config.devices = 1
    config.image_size = "32@0 48@0.4 64@0.7 80@0.9"  # images of 64 px are enlarged in the end
    config.data.directory = "data/tiny_imagenet"
    config.data.crop_fraction = 1.0  # evaluate on the whole image: 64 px are few enough
    config.data.mirror_order = "alternating"
    config.data.min_area = 0.3  # smaller crops need a longer run
    config.model.revision = "modern"  # takes 48 px
    config.model.width = 0.5
    config.optimizer.name = "muon"
    config.optimizer.muon_learning_rate = 0.05
    config.optimizer.muon_weight_decay = 0.02
    config.optimizer.learning_rate = 0.4  # of the head, by SGD
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.weight_decay = 2e-4
    config.loss.smoothing = 0.1
    config.evaluation.image_size = 96  # random regions show objects larger (FixRes)
    config.evaluation.recalibrate_bn = 2560  # the last epochs have other sizes than the first
    return config
