"""Start a run from a trained model: weights by name and shape, and the head class by class.

The model is read once. The run saves its first state, so that it resumes without the model.
"""

import collections
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple, cast

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from i21k.checkpoints import Which
from i21k.data.format.readers import labels_in
from i21k.data.format.splits import Split
from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.models.network import Network
from i21k.models.probabilities import Probability
from i21k.train import history
from i21k.train.recipe import Recipe
from i21k.trained import CheckpointModel, Preprocessing, is_onnx, load_checkpoint
from i21k.wordnet.taxonomy import wordnet

_MAX_COUNTED = 20_000  # records, our choice: reading the labels of more takes too long
_SEPARATOR = "/"


class Mapped(NamedTuple):
    """Where the rows of a head come from."""

    sources: list[list[int]]  # for each class the parent's labels whose rows it is the mean of
    num_common: int  # classes that the parent has
    num_above: int  # classes that are above some of the parent's

    @property
    def num_new(self) -> int:
        return len(self.sources) - self.num_common - self.num_above


class Inherited(NamedTuple):
    """Variables that come from a parent, and how."""

    variables: dict[str, Any]
    taken: int  # arrays that are the parent's
    total: int
    head: Mapped | None  # None: the whole head is the parent's


def open_parent(cfg: Recipe, directory: FilePath) -> CheckpointModel:
    """Load the model that `init_from` names.

    Raises:
        UserError: if there is none, or it is the run itself or a model that cannot be trained.
    """
    which = history.read_parent(cfg.init_from)
    path = which.directory
    if path.resolve() == directory.resolve():
        raise UserError(
            f"config.init_from is {cfg.init_from}, the working directory itself. Choose another"
            f" --workdir, or use --resume {directory}."
        )
    if not path.exists():
        raise UserError(
            f"config.init_from is {cfg.init_from}, which does not exist. Give a run, an imported"
            " model or a safetensors export."
        )
    if is_onnx(path):
        raise UserError(
            f"config.init_from is {cfg.init_from}, an ONNX model, which cannot be trained. Give a"
            " run, an imported model or a safetensors export."
        )
    return load_checkpoint(path, cast(Which, which.which))


def inherit(
    cfg: Recipe, network: Network, initial: Mapping[str, Any], parent: CheckpointModel,
    classes: ClassList,
) -> Inherited:  # fmt: skip
    """Return the variables of a run that starts from a parent.

    All arrays but the head's are the parent's. The head is the parent's if the class lists are
    equal. Otherwise the rows of classes in common are; a class above some of the parent's starts
    with the mean of their rows; other rows start at zero, as in BiT (Kolesnikov et al. 2020,
    arXiv 1912.11370).

    Args:
        cfg: how the head is mapped.
        network: of the run.
        initial: variables as the run would start without a parent.
        parent: trained model.
        classes: of the run.

    Raises:
        UserError: if the parent is another network, or no class is in common and the recipe wants
            the head mapped.
    """
    wanted = flatten_dict(dict(initial), sep=_SEPARATOR)
    given = flatten_dict(dict(parent.variables), sep=_SEPARATOR)
    head = _SEPARATOR.join(("params", *network.head))
    is_head = {path: path.startswith(head + _SEPARATOR) for path in wanted}
    misfits = [
        path
        for path, array in wanted.items()
        if not is_head[path] and (path not in given or given[path].shape != array.shape)
    ]
    if misfits:
        _refuse(cfg, network, parent, misfits, wanted, given)
    taken = {path: np.asarray(given[path]) for path in wanted if not is_head[path]}
    of_head = {path: array for path, array in wanted.items() if is_head[path]}
    if parent.classes.ids == classes.ids and cfg.init_head != "new":
        taken |= {path: np.asarray(given[path]) for path in of_head}
        return Inherited(_unflat(taken), len(taken), len(wanted), None)
    mapped = map_head(parent.classes, classes)
    if cfg.init_head == "new":
        mapped = Mapped([[] for _ in classes.ids], 0, 0)
    elif cfg.init_head == "mapped" and mapped.num_new == len(classes):
        raise UserError(
            f"config.init_head is 'mapped' and no class of the data is one of the parent's"
            f" {len(parent.classes):,}, or above one (data: {_some(classes)}; parent:"
            f" {_some(parent.classes)}). Use --config.init_head=new."
        )
    rows = {path: map_rows(given[path], array, mapped) for path, array in of_head.items()}
    return Inherited(_unflat(taken | rows), len(taken), len(wanted), mapped)


def map_head(parent: ClassList, classes: ClassList) -> Mapped:
    """Return from which of the parent's classes each class starts: itself, or those below it."""
    below: dict[str, list[int]] = collections.defaultdict(list)
    wanted, taxonomy = set(classes.ids), wordnet()
    for label, class_id in enumerate(parent.ids):
        if class_id in taxonomy:
            for number in taxonomy.ancestors[taxonomy.number_of[class_id]]:
                if (above := taxonomy.synsets[number].id) in wanted:
                    below[above].append(label)
    common = {class_id for class_id in classes.ids if class_id in parent.label_of}
    sources = [
        [parent.label_of[class_id]] if class_id in common else below.get(class_id, [])
        for class_id in classes.ids
    ]
    return Mapped(sources, len(common), sum(map(bool, sources)) - len(common))


def map_rows(given: Any, initial: Any, mapped: Mapped) -> np.ndarray:
    """Return an array of the head, whose last axis counts classes, from the parent's.

    A class without a source has zeros in a kernel, and its initial value in a bias.
    """
    rows = np.array(initial, np.float32)
    for label, sources in enumerate(mapped.sources):
        if sources:
            rows[..., label] = np.asarray(given, np.float32)[..., sources].mean(axis=-1)
        elif rows.ndim > 1:
            rows[..., label] = 0
    return rows


def describe(inherited: Inherited, parent: CheckpointModel, network: Network) -> str:
    """Return the line that a run prints: how many arrays and classes come from where."""
    line = f"{inherited.taken} of {inherited.total} arrays from {parent.origin}"
    if (head := inherited.head) is None:
        return line
    name = _SEPARATOR.join(network.head)
    if head.num_new == len(head.sources):
        return f"{line}; new: {name}, {head.num_new:,} classes"
    return (
        f"{line}; {name}: {head.num_common:,} classes taken, {head.num_above:,} from classes below"
        f" them, {head.num_new:,} new"
    )


def warn_of_differences(
    warn: Callable[[str], None],
    parent: CheckpointModel,
    own: Preprocessing,
    network: Network,
    probability: Probability,
) -> None:
    """Warn of differences to the parent: how images are prepared, and what the network computes."""
    before, now = parent.preprocessing.to_json(), own.to_json()
    differing = [key for key in now if now[key] != before.get(key)]
    if differing:
        pairs = ", ".join(f"{key} {now[key]!r} (before: {before.get(key)!r})" for key in differing)
        warn(
            f"images are prepared differently than for {parent.origin.path}: {pairs}. Set the keys"
            " to the old values if that is not wanted."
        )
    if parent.probability != probability:
        warn(
            f"the parent was trained with {parent.probability} and this run trains with"
            f" {probability}, whose logits have another scale. Use --config.init_head=new."
        )
    theirs, ours = parent.network.describe(), network.describe()
    if changed := [key for key in _of_function(theirs) if theirs[key] != ours[key]]:
        pairs = ", ".join(f"{key} {ours[key]!r} (before: {theirs[key]!r})" for key in changed)
        warn(f"the network computes another function than the parent's: {pairs}.")


def check_data(warn: Callable[[str], None], split: Split) -> None:
    """Refuse fewer images than classes, and warn of classes with fewer than two images.

    Raises:
        UserError: if there are fewer images than classes.
    """
    num, classes = split.num_records, split.classes
    if num < len(classes):
        raise UserError(
            f"split {split.split!r} of {split.directory} has {num:,} images of {len(classes):,}"
            " classes. Add images, or pack with a list of the classes that have some."
        )
    if num > _MAX_COUNTED:
        return
    counts = np.bincount(np.fromiter(labels_in(split), int, num), minlength=len(classes))
    if few := [class_id for class_id, n in zip(classes.ids, counts, strict=True) if n < 2]:
        least = "no image" if counts.min() == 0 else "one image"
        warn(
            f"{len(few):,} of {len(classes):,} classes have fewer than two training images;"
            f" {few[int(np.argmin(counts[counts < 2]))]} has {least}."
        )


def _refuse(
    cfg: Recipe,
    network: Network,
    parent: CheckpointModel,
    misfits: list[str],
    wanted: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Raise the error about a parent whose arrays do not fit."""
    theirs, ours = parent.network.describe(), network.describe()
    keys = [key for key in theirs if key in vars(cfg.model) and theirs[key] != ours.get(key)]
    flags = " ".join(f"--config.model.{key}={theirs[key]}" for key in keys if key != "dtype")
    path = misfits[0]
    there = list(given[path].shape) if path in given else "no such array"
    raise UserError(
        f"{parent.origin.path} is {parent.network.title}, and the recipe has {network.title}:"
        f" {len(misfits)} arrays do not fit, such as {path} (parent: {there}, recipe:"
        f" {list(wanted[path].shape)}). Use {flags or 'another parent'}."
    )


def _of_function(description: Mapping[str, Any]) -> list[str]:
    """Return the keys of a description that change what is computed for inference."""
    return [key for key in description if key not in ("dtype", "bn_momentum")]


def _unflat(flat: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict(dict(flat), sep=_SEPARATOR)


def _some(classes: ClassList) -> str:
    return ", ".join(classes.ids[:3]) + ", ..." * (len(classes) > 3)
