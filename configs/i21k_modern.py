"""All of ImageNet by a recipe of today, on 1 to 8 GPUs: small images first, smoothing, Muon.

Commands:  python launch.py --config configs/i21k_modern.py
           python launch.py --config configs/i21k_modern.py --config.epochs=18
           JAX uses all GPUs: 1, 2, 4 or 8
Source:    our choice. Evidence for each part: docs/recipes.md
Hours:     not run. Arithmetic: hours = 14.2e6 x epochs x 0.37 / (3600 x images/s), where images/s
           is the speed at 224 px and 0.37 the operations of these sizes over those of 224 px. At
           2,500 images/s 6 epochs are 3.5 hours, and 18 epochs are 10.5 hours
Accuracy:  not run
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.epochs = 6  # or 18; all durations below are fractions of the run, or short
    config.batch_size = 1024  # over all devices; divides by 1, 2, 4 and 8
    config.devices = 0  # all
    config.image_size = "96@0 128@0.3 160@0.6 192@0.9"
    config.data.directory = "data/imagenet21k"
    config.data.min_area = 0.25  # smaller crops need more epochs
    config.model.variant = "full"
    config.model.revision = "modern"
    config.model.dtype = "bfloat16"
    config.model.remat = "conv"
    config.optimizer.name = "muon"
    config.optimizer.muon_learning_rate = 0.03
    config.optimizer.learning_rate = 0.4  # 0.1 for each 256 images
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_epochs = 0.3
    config.optimizer.weight_decay = 5e-5
    config.loss.smoothing = 0.1
    config.evaluation.image_size = 224  # larger than in training (Touvron et al. 2019)
    config.evaluation.recalibrate_bn = 10240
    config.log.every_steps = 100
    return config
