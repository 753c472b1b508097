"""The recipe of 2015, number by number: a wide Inception-BN on all of ImageNet.

Command:   python launch.py --config configs/i21k_inception.py
Source:    MXNet's note "Training Deep Net on 14 Million Images by Using A Single Machine" and its
           script inception-full.py
Hours:     in 2015, 8.5 days for 9 epochs on four GTX 980
Accuracy:  in 2015, 37.19 % top-1 over 21,841 classes, on training images
Here:      not yet trained on the full data
"""

from ml_collections import ConfigDict

from i21k.train.recipe import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.epochs = 9
    config.batch_size = 64  # over all devices
    config.devices = 4
    config.image_size = 224
    config.data.directory = "data/imagenet21k"
    config.data.crop = "plain"  # a random window and a mirror were all the augmentation
    config.data.crop_fraction = 224 / 256
    config.model.variant = "full"
    config.model.revision = "released"  # of 2015-10-24, the published weights
    config.model.remat = "block"  # the GPUs had 4 GB
    config.model.init = "uniform"  # -0.01 to 0.01
    config.model.bn_momentum = "default"  # of this revision: 0.1
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay = "all"  # biases and BatchNorm's parameters too
    # In 2015 only training images were counted. After packing ILSVRC's validation images:
    # --config.evaluation.sets=val=ilsvrc_val
    config.evaluation.sets = "none"
    config.log.every_steps = 100
    config.log.keep_checkpoints = 0  # all nine, 269 MB each
    return config
