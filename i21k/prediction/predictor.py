"""Pictures to what a trained network sees in them, read in one of several views: what stands behind `i21k predict`.

    from i21k.predict import Predictor
    model = Predictor("runs/quickstart")
    answers = model.view("diverse")(model.predict(["fruit.jpg"]))
    print([model.name(answer.id) for answer in answers[0]])

A picture is prepared as the packer prepares it and cut as an evaluation cuts it, so that the network sees what it would see there.
"""

import functools
import io
import itertools
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from i21k.data.format.splits import open_split
from i21k.data.load import loader
from i21k.data.pack.pack import PackOptions
from i21k.data.sources.base import MAX_FILE_BYTES
from i21k.errors import UserError
from i21k.evaluation.evaluate import load
from i21k.images.boxes import window_boxes
from i21k.images.decode import crop_into, decode, read_size
from i21k.images.recode import FORMATS, Unreadable, recode
from i21k.labels import ClassList
from i21k.models import folding
from i21k.models.inception_network import InceptionNetwork
from i21k.train.evaluators import eval_options
from i21k.wordnet import class_lists, subsets, views
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.outline import outline
from i21k.wordnet.taxonomy import wordnet
from i21k.wordnet.views import Answer, Answers, Calibration, Probabilities

VIEWS = {
    "top": "the most probable classes",
    "subset": "the most probable of some classes",
    "fold": "the most probable of some synsets, each with all classes below it",
    "diverse": "a few synsets that cover the probability and do not repeat each other",
    "hedge": "one synset, as specific as it can be while right often enough",
    "basic": "everyday names",
}
FOLD_ONTO = "ilsvrc2012"
BATCH_SIZE = 8  # chosen here: what the network takes at a time on a CPU (`folding.folded`), and little to pad for one picture
CALIBRATION = "hedge.json"  # in the working directory
MAX_DRAWN = 20  # pictures in one figure, chosen here

View = Callable[[Probabilities], Answers]


class Seen(NamedTuple):
    """A file, and what was seen in it or why nothing was."""

    path: Path
    answers: list[Answer]
    fault: str = ""


class Predictor:
    """The newest checkpoint of a run or of an imported model on one device; compiled at the first batch."""

    def __init__(self, workdir: str | Path, batch_size: int = BATCH_SIZE) -> None:
        """Load it.

        Raises:
            ValueError: if there is no checkpoint, all are damaged, or it has no class list.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; expected at least 1")
        loaded, device = load(workdir), jax.local_devices()[0]
        self.workdir, self.batch_size = Path(workdir), batch_size
        self.checkpoint, self.image_size, self.crop_fraction = (
            loaded.checkpoint,
            loaded.image_size,
            loaded.crop_fraction,
        )
        self.classes: ClassList = loaded.classes
        model = folding.folded(loaded.model, device.platform)
        self._variables = jax.device_put(
            folding.fold(loaded.variables, loaded.model.revision), device
        )

        def softmax(variables: Any, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B K"]:
            logits: Any = model.apply(
                variables, InceptionNetwork(model).prepare(images), train=False
            )
            return jax.nn.softmax(logits)

        self._softmax = jax.jit(softmax)

    # ------------------------------------------------------------------------------------------- pictures to probabilities

    def image(self, path: str | Path) -> UInt8[np.ndarray, "S S 3"]:
        """Return what the network is shown of a picture file.

        Raises:
            ValueError: if it is no picture, or cannot be read.
        """
        jpeg = prepared(path)
        height, width = read_size(jpeg)
        image = np.empty((self.image_size, self.image_size, 3), np.uint8)
        box = window_boxes(np.array([[height, width]]), self.crop_fraction, 0.5)[0]
        crop_into(image, decode(jpeg, height, width), box)
        return image

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the softmax over the classes; how many images come together changes nothing."""
        found = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
            padded[: len(part)] = part
            found[start : start + len(part)] = jax.device_get(
                self._softmax(self._variables, padded)
            )[: len(part)]
        return found

    def predict(self, paths: Sequence[str | Path]) -> Float[np.ndarray, "B K"]:
        """Return the probabilities of some picture files.

        Raises:
            ValueError: naming the first that is no picture.
        """
        return self.probabilities(np.stack([self.image(path) for path in paths]))

    def see(self, paths: Iterable[Path], view: View) -> Iterator[Seen]:
        """Yield for each file, in their order, what is seen in it or why nothing is."""

        def image(path: Path) -> np.ndarray | ValueError:
            try:
                return self.image(path)
            except ValueError as error:
                return error

        todo = iter(paths)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while batch := list(itertools.islice(todo, self.batch_size)):
                images = list(pool.map(image, batch))
                readable = [x for x in images if isinstance(x, np.ndarray)]
                answers = iter(view(self.probabilities(np.stack(readable))) if readable else [])
                for path, x in zip(batch, images, strict=True):
                    yield (
                        Seen(path, [], str(x))
                        if isinstance(x, ValueError)
                        else Seen(path, next(answers))
                    )

    def held_out(
        self, data: str | Path, split: str = "val"
    ) -> Iterator[tuple[Probabilities, Int[np.ndarray, " B"]]]:
        """Yield probabilities and true labels of a packed split, a batch at a time.

        Raises:
            ValueError: if there is no such split, or it has classes that the model lacks.
        """
        opened = open_split(data, split)
        lacking = [
            class_id for class_id in opened.classes.ids if class_id not in self.classes.label_of
        ]
        if lacking:
            raise UserError(
                f"the checkpoint in {self.workdir} lacks {wordnet().enumerate(lacking)}, which {data} has; use data of its classes"
            )
        labels = class_lists.columns(self.classes, opened.classes)
        with loader.batches(
            opened, eval_options(self.batch_size, self.image_size, self.crop_fraction, 1)
        ) as batches:
            for batch in batches:
                real = batch.weights > 0
                yield self.probabilities(batch.images)[real], labels[batch.labels[real]]

    # --------------------------------------------------------------------------------------------- probabilities to answers

    @functools.cached_property
    def hierarchy(self) -> Hierarchy:
        """The model's classes in WordNet."""
        return Hierarchy(self.classes)

    def name(self, class_id: str) -> str:
        """Return the display name of a class or synset; a class that is no synset is its own."""
        return wordnet().name(class_id)

    def view(
        self, name: str = "top", among: str | None = None, k: int = 5, accuracy: float = 0.9
    ) -> View:
        """Return a function from probabilities to answers; whatever is wrong with it is found here, before any picture is read.

        Args:
            name: one of `VIEWS`.
            among: expression (see `i21k.wordnet.subsets`): the classes of `subset`, or the synsets of `fold`, which are chosen from the
                classes of the model, of fall11 and of ilsvrc2012.
            k: answers at most; `hedge` gives one.
            accuracy: of `hedge`, for which the checkpoint was calibrated.

        Raises:
            ValueError: if the view does not exist, the expression is wrong, the classes are not in WordNet, or `hedge` is not calibrated.
        """
        if name not in VIEWS:
            raise UserError(f"no view is called {name!r}; expected one of {', '.join(VIEWS)}")
        if k < 1:
            raise UserError(f"{k} answers were asked for; expected at least 1")
        if among is not None and name not in ("subset", "fold"):
            raise UserError(
                f"view {name!r} takes no expression, and {among!r} was given; use the view subset or fold"
            )
        if name == "top":
            return lambda probabilities: views.top(probabilities, self.classes, k)
        try:
            hierarchy = self.hierarchy
        except ValueError as error:
            raise UserError(
                f"view {name!r} asks WordNet, but {error}; the view top takes any classes"
            ) from error
        if name == "subset":
            if among is None:
                raise UserError(
                    "view 'subset' needs to know of which classes; give an expression such as 'leaf & !under(person)'"
                )
            chosen = subsets.select(among, hierarchy)
            return lambda probabilities: views.subset(probabilities, self.classes, chosen, k)
        if name == "fold":
            onto = self._onto(FOLD_ONTO if among is None else among)
            return lambda probabilities: views.fold(probabilities, hierarchy, onto, k)
        if name == "hedge":
            generality = self._calibrated(accuracy)
            return lambda probabilities: [
                [answer] for answer in views.hedge(probabilities, hierarchy, generality)
            ]
        if name == "diverse":
            return lambda probabilities: views.diverse(probabilities, hierarchy, k)
        return lambda probabilities: views.basic(probabilities, hierarchy, k)

    def _onto(self, among: str) -> list[str]:
        """Return the synsets an expression chooses, as far as the model has classes at or below them."""
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
                f"none of the model's {len(self.classes):,} classes lies at or below {among!r}; choose other synsets to fold onto"
            )
        return onto

    # ----------------------------------------------------------------------------------------------------------- calibration

    def calibrate(self, data: str | Path, split: str = "val", accuracy: float = 0.9) -> Calibration:
        """Find how general `hedge` has to be on held-out pictures, and keep it in the working directory for this checkpoint.

        Raises:
            ValueError: if the data do not do (see `held_out`), the model was trained on them, or the accuracy is out of range or reach.
        """
        opened = open_split(data, split)
        if opened.fingerprint == self.checkpoint.meta.get("data", {}).get("fingerprint"):
            raise UserError(
                f"split {split!r} of {data} is what the checkpoint in {self.workdir} was trained on; calibrate on another split"
            )
        found = views.calibrate(self.held_out(data, split), self.hierarchy, accuracy)
        kept = self._read_calibration()
        if kept.get("checkpoint") != self._identity:
            kept = {"checkpoint": self._identity, "accuracies": {}}
        kept["accuracies"][repr(float(accuracy))] = {
            **found._asdict(),
            "data": str(data),
            "split": split,
            "fingerprint": opened.fingerprint,
        }
        temporary = self.workdir / f"{CALIBRATION}.tmp"
        temporary.write_text(json.dumps(kept, indent=1))
        temporary.replace(self.workdir / CALIBRATION)
        return found

    @property
    def _identity(self) -> dict[str, Any]:
        return {"step": self.checkpoint.step, "digest": self.checkpoint.meta["meta_digest"]}

    def _read_calibration(self) -> dict[str, Any]:
        path = self.workdir / CALIBRATION
        if not path.exists():
            return {}
        try:
            kept = json.loads(path.read_text())
            for entry in kept["accuracies"].values():
                float(entry["generality"])
            return {"checkpoint": dict(kept["checkpoint"]), "accuracies": kept["accuracies"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}); remove it and calibrate again"
            ) from error

    def _calibrated(self, accuracy: float) -> float:
        how = f"calibrate with i21k predict --checkpoint {self.workdir} --view hedge --accuracy {accuracy} --calibrate DATA"
        kept = self._read_calibration()
        if not kept:
            raise UserError(
                f"view 'hedge' is not calibrated for the checkpoint in {self.workdir}; {how}"
            )
        if kept["checkpoint"] != self._identity:
            its, ours = kept["checkpoint"].get("step"), self.checkpoint.step
            raise UserError(
                f"{self.workdir / CALIBRATION} belongs to another checkpoint (step {its}; the newest is step {ours}); {how}"
            )
        if repr(float(accuracy)) not in kept["accuracies"]:
            raise UserError(
                f"view 'hedge' is calibrated for accuracy {', '.join(kept['accuracies'])}, not for {accuracy}; {how}"
            )
        return float(kept["accuracies"][repr(float(accuracy))]["generality"])


# ------------------------------------------------------------------------------------------------------------- files, output


def prepared(path: str | Path) -> bytes:
    """Return a picture file as `i21k pack` would store it by default: an upright sRGB JPEG of at most 256 px short side.

    Raises:
        ValueError: if it is no picture, or cannot be read.
    """
    path, options = Path(path), PackOptions()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Unreadable(f"file larger than {MAX_FILE_BYTES >> 20} MiB")
        return recode(path.read_bytes(), options.short_side, options.quality)
    except Unreadable as error:
        raise UserError(f"{path}: {error}; expected a whole {', '.join(FORMATS)}") from error
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; expected a picture that can be read"
        ) from error


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files meant: each path, or all files at and below a folder by name, hidden ones left out.

    Raises:
        ValueError: if a folder has none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        below = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
        )
        if not below:
            raise UserError(f"folder {path} has no files; expected pictures")
        found += below
    return found


def describe(answers: Sequence[Answer]) -> str:
    """Return answers as a tree of WordNet, or as a list where the classes are not in it."""
    if any(answer.id in wordnet() for answer in answers):
        return outline(answers)
    width = max((len(answer.id) for answer in answers), default=0)
    return "\n".join(f"{answer.id:{width}}  {answer.probability:6.1%}" for answer in answers)


def draw(seen: Sequence[Seen], path: str | Path) -> None:
    """Write a PNG with a row for each picture that could be read: the picture, and its answers as bars.

    Raises:
        ValueError: if there are no such pictures, or more than `MAX_DRAWN`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = [one for one in seen if not one.fault]
    if not 0 < len(seen) <= MAX_DRAWN:
        raise UserError(f"there are {len(seen)} pictures to draw; expected 1 to {MAX_DRAWN}")
    figure = Figure(figsize=(8, 2.4 * len(seen)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(seen), 2, squeeze=False, width_ratios=(1, 2))
    for one, (shown, bars) in zip(seen, rows, strict=True):
        shown.imshow(Image.open(io.BytesIO(prepared(one.path))))
        shown.set_title(
            textwrap.shorten(one.path.name, 32, placeholder="…"), fontsize="small", parse_math=False
        )
        shown.axis("off")
        names = [
            textwrap.shorten(wordnet().name(answer.id), 40, placeholder="…")
            for answer in one.answers
        ]
        drawn = bars.barh(
            range(len(names)), [answer.probability for answer in one.answers], color="tab:blue"
        )
        bars.bar_label(
            drawn,
            [f"{answer.probability:.1%}" for answer in one.answers],
            padding=3,
            fontsize="small",
        )
        bars.set_yticks(range(len(names)), names, parse_math=False)
        bars.set_ylim(
            max(4.5, len(names) - 0.5), -0.5
        )  # bars of equal width, the most probable on top
        bars.set_xlim(0, 1.15)
        bars.set_xticks([])
        bars.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, dpi=100, format="png")


def as_json(seen: Seen) -> dict[str, Any]:
    """Return what `--json` prints of a picture."""
    answers = [{**answer._asdict(), "name": wordnet().name(answer.id)} for answer in seen.answers]
    return {"file": str(seen.path), "answers": answers}
