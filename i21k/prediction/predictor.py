"""Predict with a trained model: from image files to answers, in one of several views.

An image is prepared as the model's training images were (`i21k.trained.Preprocessing`).
"""

import functools
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from i21k import log
from i21k.checkpoints import Which
from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example, file_name_of
from i21k.data.format.splits import Split, open_split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.evaluation import priors
from i21k.evaluation.temperature import logs_of, tempered
from i21k.images.recode import FORMATS
from i21k.labels import ClassList
from i21k.machine import num_cpus
from i21k.prediction.calibration import Calibrated, Calibrations, calibrate
from i21k.prediction.regions import parts
from i21k.trained import AnyImage, TrainedModel, load
from i21k.wordnet import class_lists, subsets, views
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.taxonomy import wordnet
from i21k.wordnet.views import Answer, Answers, Probabilities

VIEWS = {
    "top": "the most probable classes",
    "subset": "the most probable of some classes",
    "fold": "the most probable of some synsets, each with all classes below it",
    "diverse": "a few synsets that cover the probability and do not repeat each other",
    "hedge": "one synset, as specific as it can be while right often enough",
    "basic": "everyday names",
}
FOLD_ONTO = "ilsvrc2012"
_ENDINGS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".ppm",
    ]
)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
BATCH_SIZE = 8  # our choice: what the network takes at a time on a CPU, and little to pad

View = Callable[[Probabilities], Answers]


class Seen(NamedTuple):
    """The answers for one image, or why there are none."""

    path: Path
    answers: list[Answer]
    fault: str = ""
    truth: str = ""  # the class id, where it is known
    jpeg: bytes | None = None  # the image, if `path` is not a file


class Predictor:
    """A trained model with WordNet: classes, probabilities, features, and answers in a view.

    Wherever an image is taken it may be a path, the content of a file (bytes), a PIL image or a
    uint8 array [height, width, 3].
    """

    def __init__(
        self,
        model: str | Path | TrainedModel,
        batch_size: int = BATCH_SIZE,
        step: Which = "last",
    ) -> None:
        """Load a model.

        Args:
            model: the working directory of a run, an ONNX file, or what `i21k.trained.load`
                returned.
            batch_size: how many images the network takes at a time; changes speed and memory only.
            step: which checkpoint of the run, as for `i21k.trained.load`.

        Raises:
            UserError: if there is no usable checkpoint.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; expected at least 1")
        self.trained = load(model, step) if isinstance(model, (str, Path)) else model
        self.trained.batch_size = self.batch_size = batch_size
        self.workdir, self.classes = Path(self.trained.origin.path), self.trained.classes
        self.image_size = self.trained.preprocessing.image_size
        self.calibration = Calibrations(self.trained.origin)

    def __repr__(self) -> str:
        return f"Predictor({self.trained.origin}, {len(self.classes):,} classes)"

    # Probabilities and features

    def probabilities(
        self, images: AnyImage | Sequence[AnyImage], regions: bool = False
    ) -> Float[np.ndarray, "K"] | Float[np.ndarray, "B K"]:
        """Return the probability of each class: [K] for one image, [B, K] for several.

        Args:
            images: one image or several.
            regions: average the probabilities of the whole image and of nine regions of it
                (`i21k.prediction.regions`). A scene of several objects then shows more of them.

        Raises:
            UserError: naming the first that is not an image.
        """
        several, given = _as_list(images)
        prepared = [self._parts(image, regions) for image in given]
        found = self._mean_probabilities(prepared)
        return found if several else found[0]

    def calibrated(self, probabilities: Probabilities) -> Probabilities:
        """Return probabilities at the temperature of the newest calibration, as the views do.

        Raises:
            UserError: if the file of calibrations is damaged.
        """
        temperature = self.calibration.temperature()
        if temperature == 1:
            return probabilities
        return np.exp(tempered(logs_of(probabilities), temperature))

    def _parts(self, image: AnyImage, regions: bool) -> UInt8[np.ndarray, "R S S 3"]:
        """Return what the network is given for an image: the whole image, and its regions."""
        if regions:
            return parts(self.trained.preprocessing, image)
        return self.trained.prepare(image)[None]

    def _mean_probabilities(
        self, prepared: Sequence[UInt8[np.ndarray, "R S S 3"]]
    ) -> Float[np.ndarray, "B K"]:
        """Return for each image the mean probabilities of its parts."""
        if not prepared:
            return np.empty((0, len(self.classes)), np.float32)
        found = self.trained.probabilities(np.concatenate(prepared))
        return found.reshape(len(prepared), -1, found.shape[1]).mean(axis=1)

    def features(
        self, images: AnyImage | Sequence[AnyImage]
    ) -> Float[np.ndarray, "F"] | Float[np.ndarray, "B F"]:
        """Return what the network knows of an image before its classes: [F], or [B, F] for several.

        Raises:
            UserError: naming the first that is not an image.
        """
        several, given = _as_list(images)
        size = self.image_size
        prepared = [self.trained.prepare(image) for image in given]
        found = self.trained.features(
            np.stack(prepared) if prepared else np.empty((0, size, size, 3), np.uint8)
        )
        return found if several else found[0]

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        view: str | View = "top",
        regions: bool = False,
        **options: Any,
    ) -> list[Answer] | list[list[Answer]]:
        """Return the answers for one image, or a list of answers for each of several.

        Args:
            images: one image or several.
            view: the name of a view, or what `view()` returned.
            regions: look at nine regions of each image too, as `probabilities` does.
            options: of the view, such as `k=3` or `among="under(dog)"`.

        Raises:
            UserError: if the view cannot be used, or naming the first that is not an image.
        """
        chosen = self.view(view, **options) if isinstance(view, str) else view
        if isinstance(view, str):
            check_regions(view, regions)
        several, given = _as_list(images)
        answers = chosen(self.probabilities(given, regions))
        return answers if several else answers[0]

    def see(self, paths: Iterable[Path], view: View, regions: bool = False) -> Iterator[Seen]:
        """Yield the answers for each file, in the order of the files, or why there are none."""
        yield from self._seen((Seen(path, []) for path in paths), view, regions)

    def see_split(
        self,
        data: str | Path,
        split: str,
        view: View,
        num_images: int | None = None,
        regions: bool = False,
    ) -> Iterator[Seen]:
        """Yield the answers for the first images of a packed split, with their true classes.

        Args:
            data: a packed directory, or another TFDS dataset of labelled images.
            split: its name. Its classes need not be the model's.
            view: from probabilities to answers.
            num_images: how many images; None: all. They are shuffled already.
            regions: look at nine regions of each image too, as `probabilities` does.

        Raises:
            UserError: if there is no such split, or `num_images` is not positive.
        """
        if num_images is not None and num_images < 1:
            raise UserError(f"num is {num_images}; expected at least 1")
        opened = open_split(data, split)
        yield from self._seen(_records(opened, num_images), view, regions)

    def _seen(self, images: Iterable[Seen], view: View, regions: bool) -> Iterator[Seen]:
        def prepared(one: Seen) -> np.ndarray | UserError:
            try:
                return self._parts(one.path if one.jpeg is None else one.jpeg, regions)
            except UserError as error:
                return error

        todo = iter(images)
        with ThreadPoolExecutor(num_cpus()) as pool:
            while batch := list(itertools.islice(todo, self.batch_size)):
                found = list(pool.map(prepared, batch))
                readable = [x for x in found if isinstance(x, np.ndarray)]
                answers: Iterator[list[Answer]] = iter(())
                if readable:
                    answers = iter(view(self._mean_probabilities(readable)))
                for one, x in zip(batch, found, strict=True):
                    if isinstance(x, UserError):
                        yield one._replace(fault=str(x))
                    else:
                        yield one._replace(answers=next(answers))

    def held_out(
        self, data: str | Path, split: str = "val"
    ) -> Iterator[tuple[Probabilities, Int[np.ndarray, " B"]]]:
        """Yield probabilities and true labels of a packed split, a batch at a time.

        Raises:
            UserError: if there is no such split, or it has classes that the model lacks.
        """
        opened = open_split(data, split)
        lacking = [
            class_id for class_id in opened.classes.ids if class_id not in self.classes.label_of
        ]
        if lacking:
            raise UserError(
                f"the checkpoint in {self.workdir} lacks {wordnet().enumerate(lacking)}, "
                f"which {data} has; use data of its classes"
            )
        labels = class_lists.columns(self.classes, opened.classes)
        options = loader.LoaderOptions(
            batch_size=self.batch_size,
            image_size=self.image_size,
            crop="centre",
            crop_fraction=self.trained.preprocessing.crop_fraction,
            mirror=False,
            order="stored",
        )
        with loader.batches(opened, options) as batches:
            for batch in batches:
                real = batch.weights > 0
                yield self.trained.probabilities(batch.images)[real], labels[batch.labels[real]]

    # Answers

    @functools.cached_property
    def hierarchy(self) -> Hierarchy:
        """The model's classes in WordNet."""
        return Hierarchy(self.classes)

    def name(self, class_id: str) -> str:
        """Return the display name of a class or synset; other class ids are their own names."""
        return wordnet().name(class_id)

    def view(
        self,
        name: str = "top",
        among: str | None = None,
        k: int = 5,
        accuracy: float = 0.9,
        prior: str | Path | None = None,
        tau: float = 1.0,
        data: str | Path | None = None,
    ) -> View:
        """Return a function from probabilities [B, K] to answers.

        The probabilities are calibrated first, if the checkpoint has a temperature, and adjusted to
        other class frequencies. What is wrong with a view is found here, before any image is read.

        Args:
            name: one of `VIEWS`.
            among: expression (see `i21k.wordnet.subsets`): the classes of `subset`, or the synsets
                of `fold`, chosen from the classes of the model, of fall11 and of ilsvrc2012. With
                a `partition(...)` in it, each class counts for one synset only.
            k: at most this many answers; `hedge` gives one.
            accuracy: of `hedge`, for which the checkpoint was calibrated.
            prior: the class frequencies to expect: those of the training images ("train"), equal
                ones ("uniform"), or those of a file, see `i21k.evaluation.priors`. None: those that
                the model was trained for.
            tau: strength of the correction for them.
            data: dataset that the model was trained on, if the checkpoint has no class counts.

        Raises:
            UserError: if the view does not exist, the expression is wrong, the classes are not in
                WordNet, or `hedge` is not calibrated.
        """
        if name not in VIEWS:
            raise UserError(f"no view is called {name!r}; expected one of {', '.join(VIEWS)}")
        if k < 1:
            raise UserError(f"{k} answers were asked for; expected at least 1")
        if among is not None and name not in ("subset", "fold"):
            raise UserError(
                f"view {name!r} takes no expression, and {among!r} was given; "
                "use the view subset or fold"
            )
        inner = self._plain_view(name, among, k, accuracy)
        offsets = priors.offsets_of(self.trained, prior, tau, data)
        if name == "hedge":
            if offsets is None:
                return inner
            raise UserError(
                "view 'hedge' is calibrated for the class frequencies of its held-out images."
                " Omit the prior, or use another view."
            )
        temperature = self.calibration.temperature()
        if temperature == 1 and offsets is None:
            return inner
        return lambda probabilities: inner(
            np.exp(priors.adjusted(tempered(logs_of(probabilities), temperature), offsets))
        )

    def _plain_view(self, name: str, among: str | None, k: int, accuracy: float) -> View:
        """Return a view of probabilities as they are."""
        exclusive = self.trained.probability == "softmax"
        if name == "top":
            return lambda probabilities: views.top(probabilities, self.classes, k, exclusive)
        if not exclusive:
            raise UserError(
                f"view {name!r} needs probabilities that add up to 1, and the model in"
                f" {self.workdir} was trained with sigmoid. Use the view top."
            )
        try:
            hierarchy = self.hierarchy
        except UserError as error:
            raise UserError(
                f"view {name!r} needs WordNet, but {error}; the view top takes any classes"
            ) from error
        if name == "subset":
            if among is None:
                raise UserError(
                    "view 'subset' needs an expression; give one such as 'leaf & !under(person)'"
                )
            chosen = subsets.select(among, hierarchy)
            return lambda probabilities: views.subset(probabilities, self.classes, chosen, k)
        if name == "fold":
            onto = self.onto(FOLD_ONTO if among is None else among)
            once = among is not None and "partition(" in among  # so that all add up to 1
            return lambda probabilities: views.fold(probabilities, hierarchy, onto, k, once)
        if name == "hedge":
            generality = self.calibration.generality(accuracy)
            return lambda probabilities: [
                [answer] for answer in views.hedge(probabilities, hierarchy, generality)
            ]
        if name == "diverse":
            return lambda probabilities: views.diverse(probabilities, hierarchy, k)
        return lambda probabilities: views.basic(probabilities, hierarchy, k)

    def onto(self, among: str) -> list[str]:
        """Return the synsets that `fold` takes for an expression: with classes at or below them.

        Raises:
            UserError: if the expression is wrong, or chooses none.
        """
        known = class_lists.named("fall11").ids + class_lists.named("ilsvrc2012").ids
        candidates = ClassList.sorted(self.classes.ids + known)
        chosen = subsets.select(among, Hierarchy(candidates))
        onto = [
            class_id
            for class_id, is_chosen in zip(candidates.ids, chosen, strict=True)
            if is_chosen and class_id in self.hierarchy.node_of
        ]
        if not onto:
            raise UserError(
                f"none of the model's {len(self.classes):,} classes is at or below {among!r}; "
                "choose other synsets to fold onto"
            )
        return onto

    def calibrate(self, data: str | Path, split: str = "val", accuracy: float = 0.9) -> Calibrated:
        """Fit the temperature on held-out images, and how general `hedge` has to be.

        Both are saved beside the checkpoint. The other views use the temperature from then on.

        The other accuracies from 0.5 to 0.99 are calibrated on the way.

        Raises:
            UserError: if the data cannot be used (see `held_out`), the model was trained on them,
                or the accuracy is out of range or cannot be reached.
        """
        if self.trained.probability != "softmax":
            raise UserError(
                f"the classes of {self.trained.origin.path} do not exclude each other, so their"
                " probabilities do not add up to 1. Use a model that was trained with softmax to"
                " calibrate."
            )
        opened = open_split(data, split)
        if opened.fingerprint == self.trained.train_fingerprint:
            raise UserError(
                f"split {split!r} of {data} is what the checkpoint in {self.workdir} "
                "was trained on; "
                "calibrate on another split"
            )
        with log.progress("calibrate", opened.num_records) as bar:
            found, curve = calibrate(
                _counted(self.held_out(data, split), bar), self.hierarchy, accuracy
            )
        self.calibration.save(accuracy, found, data, split, opened.fingerprint, curve)
        return found


def check_regions(view: str, regions: bool) -> None:
    """Refuse regions for the view whose promise holds for whole images only.

    Raises:
        UserError: if regions are wanted in the view `hedge`.
    """
    if regions and view == "hedge":
        raise UserError(
            "view 'hedge' is calibrated on whole images. Omit regions, or use the view diverse."
        )


def _as_list(images: AnyImage | Sequence[AnyImage]) -> tuple[bool, list[AnyImage]]:
    """Return whether several images are given, and the images as a list."""
    several = not isinstance(images, (str, Path, bytes, Image.Image)) and not (
        isinstance(images, np.ndarray) and images.ndim < 4
    )
    return several, list(images) if several else [images]  # type: ignore[arg-type, list-item]


def load_model(path: str | Path, batch_size: int = BATCH_SIZE, step: Which = "last") -> Predictor:
    """Load a trained model: a checkpoint of a run or of an imported model.

    >>> import i21k
    >>> model = i21k.load_model("runs/quickstart")
    >>> answers = model.predict("fruit.jpg", k=2)
    >>> [model.name(answer.id) for answer in answers]
    ['great white shark', 'tench']
    >>> model.probabilities(["fruit.jpg", "fruit.jpg"]).shape
    (2, 4)
    >>> model.features(["fruit.jpg"]).ndim
    2
    >>> diverse = model.view("diverse")
    >>> len(model.predict(["fruit.jpg"], diverse))
    1

    Args:
        path: the working directory of the run.
        batch_size: how many images the network takes at a time; changes speed and memory only.

    Raises:
        UserError: if there is no usable checkpoint.
    """
    return Predictor(path, batch_size, step)


class Files(NamedTuple):
    """What files and folders hold."""

    images: list[Path]
    faults: list[str]  # folders that cannot be read
    num_others: int  # files of folders that are no images
    num_links: int = 0  # symbolic links that leave the folder that they are in, or to folders


def find_files(paths: Iterable[str | Path]) -> Files:
    """Return each file, and the images at and below each folder by name, without hidden ones.

    A file that is given is an image. One in a folder is, if its ending or its content says so.
    Symbolic links in a folder are followed to files in that folder only.

    Raises:
        UserError: if a folder can be read and has no images.
    """
    images: list[Path] = []
    faults: list[str] = []
    num_others = num_links = 0
    for path in map(Path, paths):
        if not path.is_dir():
            images.append(path)
            continue
        everything, unreadable = _files_below(path)
        below = [file for file in everything if not _leaves(file, path)]
        found = [file for file in below if _is_image(file)]
        if not found and not unreadable:
            num_out = len(everything) - len(below)
            links = f", and {num_out:,} links out of it" if num_out else ""
            raise UserError(
                f"folder {path} has no images, and {len(below):,} other files{links}; expected"
                f" {', '.join(FORMATS)} files"
            )
        num_links += len(everything) - len(below)
        images += found
        faults += unreadable
        num_others += len(below) - len(found)
    return Files(images, faults, num_others, num_links)


def _leaves(file: Path, folder: Path) -> bool:
    """Return whether a file is a symbolic link out of a folder, or to a folder."""
    return file.is_symlink() and (
        file.is_dir() or not file.resolve().is_relative_to(folder.resolve())
    )


def _files_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files below a folder, sorted, and what is wrong with folders in it."""
    found: list[Path] = []
    faults: list[str] = []

    def fail(error: OSError) -> None:
        faults.append(f"folder {error.filename} cannot be read ({error.strerror})")

    for directory, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = names + [name for name in folders if Path(directory, name).is_symlink()]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(found), sorted(faults)


def _is_image(path: Path) -> bool:
    """Return whether a file is an image, perhaps a damaged one, or of a format that we lack."""
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(4).startswith(_BEGINNINGS)
    except OSError:
        return False


def _counted(
    batches: Iterator[tuple[Probabilities, Int[np.ndarray, " B"]]], bar: log.Progress
) -> Iterator[tuple[Probabilities, Int[np.ndarray, " B"]]]:
    for probabilities, labels in batches:
        yield probabilities, labels
        bar.advance(len(labels))


def _records(split: Split, num_images: int | None) -> Iterator[Seen]:
    reader = RecordReader(split)
    for number in range(min(split.num_records, num_images or split.num_records)):
        record = reader[number]
        jpeg, label = decode_example(record)
        name = file_name_of(record) or f"record {number}"
        yield Seen(Path(name), [], truth=split.classes.ids[label], jpeg=jpeg)
