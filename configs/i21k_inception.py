"""The recipe of 2015, number by number: Inception-BN with 1.5 times the filters in the bottom, on all of ImageNet.

    python launch.py --config configs/i21k_inception.py

Source: the MXNet note "Training Deep Net on 14 Million Images by Using A Single Machine" and its script inception-full.py. There: 9 epochs
in 8.5 days on 4 GTX 980, 37.19 % top-1 over 21,841 classes in training. Here: not run on the full data yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Run
    config.seed = 0
    config.epochs = 9
    config.batch_size = 64  # over all devices
    config.accumulate_steps = 1  # micro-batches a device that make one update: 4 on one card give the gradients of four cards
    config.devices = 4  # over all processes; 0: all there are
    config.reduce_dtype = "float32"  # of gradients between devices; "bfloat16" halves what travels
    config.image_size = 224  # px

    config.data = ConfigDict()
    config.data.directory = "data/imagenet21k"
    config.data.train_split = "train"
    config.data.val_split = "val"  # the note had none; evaluated where the directory holds it
    config.data.synthetic_per_class = 0  # pictures to draw into an empty directory
    config.data.order = "global"  # one shuffle of all records; "windowed" for hard disks: runs of 3 MB, mixed 64 at a time
    config.data.crop = "plain"  # a random window and a mirror: all the augmentation there was
    config.data.crop_fraction = 224 / 256  # window over short side
    config.data.min_area = 0.08  # of crop "region"
    config.data.mirror = True
    config.data.on_bad_record = (
        "stop"  # or "skip", with a line for each; the validation split has to be whole in any case
    )
    config.data.max_bad_fraction = 0.001  # of the records, in one epoch; the 35 pictures that were left out in 2015 are 0.0000025
    config.data.threads = 0  # one a core
    config.data.workers = 0  # processes instead of threads: beside a step on 2 cores no more than 6 % faster, 210 MB each

    config.model = ConfigDict()
    config.model.variant = "full"
    config.model.revision = "released"  # of 2015-10-24, the published weights
    config.model.width = 1.0
    config.model.dtype = "float32"
    config.model.remat = "block"  # the cards had 4 GB
    config.model.init = "uniform"  # -0.01 .. 0.01
    config.model.bn_momentum = 0.0  # the revision's own: 0.1, the weight of the old average
    config.model.sync_bn = False  # every GPU normalised by itself

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "constant"  # never lowered
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay = "all"  # parameters, biases and BatchNorm's too

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 256  # over all devices
    config.evaluation.recalibrate_bn = (
        0  # training pictures to compute BatchNorm's statistics from; 0: moving averages
    )
    config.evaluation.second_directory = (
        "none"  # dataset of other classes to evaluate too, such as ILSVRC's validation set
    )
    config.evaluation.second_split = "val"

    config.log = ConfigDict()
    config.log.every_steps = 100
    config.log.keep_checkpoints = 0  # all nine; 269 MB each
    return config
