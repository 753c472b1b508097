"""Fine-tune a trained model on your own images: everything follows from the model and the data.

Commands:  i21k pack my_images --out data/flowers --val-per-class 10
           python launch.py --config configs/finetune.py:data/flowers:runs/released
Source:    the steps by number of images are the BiT-HyperRule (Kolesnikov et al. 2020, "Big
           Transfer", arXiv 1912.11370, section 3.3); no weight decay, a clipped gradient and a head
           of zeros are big_vision's transfer configuration; smaller batches and the rates are ours
Hours:     depends on the data and the model: see the first lines of the run
Accuracy:  depends on the data: see docs/results.md, "Fine-tuning"

The model after the second colon is a run, an imported model or a safetensors export. Its network
and the size of its images are used. The working directory is runs/finetune-flowers. Every key can
be set on the command line.

    images    steps    batch
    < 20,000     500      32
    < 500,000 10,000     128
    more      20,000     512

and at least five epochs, because the batches are smaller than BiT's 512.
"""

from ml_collections import ConfigDict

from i21k.errors import UserError
from i21k.train.recipe import default_config
from i21k.train.starting_point import ParentFacts, num_images_of, read_parent_facts

RULE = ((20_000, 500, 32), (500_000, 10_000, 128), (float("inf"), 20_000, 512))
LEAST_EPOCHS = 5
RATE, RATE_BATCH = 0.01, 32  # our choice, not tuned; it grows with the batch
HEAD = 10.0  # the head starts at zero, and needs a larger rate than what is trained already


def get_config(arguments: str = "") -> ConfigDict:
    directory, colon, parent = arguments.partition(":")
    if directory and not colon:
        raise UserError(
            f"no model to start from is given. Use --config configs/finetune.py:{directory}:MODEL."
        )
    if directory:
        facts, num_images = read_parent_facts(parent), num_images_of(directory)
    else:  # the example of the documentation
        directory, parent, num_images = "data/own_images", "runs/parent", 500
        facts = ParentFacts({}, 224, 224 / 256)
    steps, batch = next((s, b) for below, s, b in RULE if num_images < below)
    batch = min(batch, num_images)
    config = default_config()
    config.init_from = parent
    config.data.directory = directory
    with config.model.ignore_type():
        for name, value in facts.model.items():
            if name in config.model and name != "bn_momentum":  # 2015's is of the last batch
                config.model[name] = value
    config.image_size = facts.image_size
    config.data.crop_fraction = facts.crop_fraction
    config.data.min_area = 0.35  # few images: small regions often lack the object
    config.batch_size = batch
    config.epochs = max(LEAST_EPOCHS, round(steps * batch / num_images))
    config.optimizer.learning_rate = RATE * batch / RATE_BATCH
    config.optimizer.learning_rate_head = HEAD
    config.optimizer.warmup_epochs = config.epochs / 10
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.evaluation.batch_size = 64
    config.log.every_steps = 20
    return config
