"""Calibrations: `hedge.json` beside the checkpoint that they belong to.

They have how general the view `hedge` has to be, and the temperature of the other views. `hedge`
needs none, because its generality is fitted to the probabilities as they are.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from i21k import log
from i21k.errors import UserError
from i21k.evaluation.column import Column
from i21k.evaluation.temperature import fit_temperature, logs_of, tempered
from i21k.files import parse_json, replaced
from i21k.trained import Origin, TrainedModel
from i21k.wordnet import views
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.views import Calibration, Probabilities

CALIBRATION = "hedge.json"  # in the working directory
# One pass over the held-out images calibrates for all of these, besides the accuracy that is given.
ACCURACIES = tuple(percent / 100 for percent in range(50, 100))
_FITTED = 1 << 26  # probabilities, 256 MiB; our choice: 3,072 images of 21,841 classes
HeldOut = Iterator[tuple[Probabilities, Int[np.ndarray, " B"]]]


def known_generality(model: TrainedModel, accuracy: float) -> float | None:
    """Return how general `hedge` has to be; None, with a note, if the model is not calibrated."""
    try:
        return Calibrations(model.origin).generality(accuracy)
    except UserError as error:
        log.note(f"there is no hedged answer: {error}")
        return None


class Calibrated(NamedTuple):
    """What was found on held-out images."""

    generality: float  # for `hedge`
    accuracy: float  # fraction of answers of `hedge` that were right
    specificity: float  # mean over these answers, 0 (entity) to 1 (a class with none below)
    num_images: int  # held out
    temperature: float  # for the views other than `hedge`
    ece_before: float  # calibration error of the best class without the temperature
    ece: float  # and with it


def calibrate(
    batches: HeldOut, hierarchy: Hierarchy, accuracy: float
) -> tuple[Calibrated, dict[float, Calibration]]:
    """Fit the temperature, and how general `hedge` has to be for an accuracy.

    The temperature is fitted to the first images, as many as fit into `_FITTED` probabilities. The
    rest is computed from all.

    Args:
        batches: probabilities and true labels of held-out images, in random order.
        hierarchy: of the classes.
        accuracy: of `hedge`.

    Returns:
        What was found, and what was found for those of `ACCURACIES` that can be reached.

    Raises:
        UserError: if there are no images, or the accuracy cannot be reached.
    """
    first, rest = [], iter(batches)
    for probabilities, labels in rest:
        first.append((probabilities, labels))
        if sum(p.size for p, _ in first) >= _FITTED:
            break
    if not first:
        raise UserError("there are no held-out images. Give a split with images to calibrate on.")
    temperature = fit_temperature(
        logs_of(np.concatenate([p for p, _ in first])), np.concatenate([y for _, y in first])
    )
    before, after = Column(), Column()

    def scored() -> HeldOut:
        for probabilities, labels in itertools.chain(first, rest):
            logs, accepted = logs_of(probabilities), list(labels[:, None])
            before.add(logs, accepted)
            after.add(tempered(logs, temperature), accepted)
            yield probabilities, labels

    hedged, *others = views.calibrate_each(scored(), hierarchy, (accuracy, *ACCURACIES))
    if isinstance(hedged, UserError):
        raise hedged
    ece_before, ece = (column.summary()["ece"] for column in (before, after))
    assert ece_before is not None and ece is not None
    curve = {
        wanted: point
        for wanted, point in zip(ACCURACIES, others, strict=True)
        if not isinstance(point, UserError)
    }
    return Calibrated(*hedged, temperature, ece_before, ece), curve


class Calibrations:
    """The calibrations of one checkpoint: one for each accuracy that `hedge` was calibrated for."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._workdir = Path(origin.path)
        self.path = self._workdir / CALIBRATION
        if self._workdir.is_file():  # a model in one file
            self.path = self._workdir.with_suffix(f".{CALIBRATION}")

    @property
    def _identity(self) -> dict[str, Any]:
        return {"step": self._origin.step, "digest": self._origin.digest}

    def save(
        self,
        accuracy: float,
        found: Calibrated,
        data: str | Path,
        split: str,
        fingerprint: str,
        curve: Mapping[float, Calibration] | None = None,
    ) -> None:
        """Add a calibration to those of this checkpoint; those of another are removed.

        Args:
            accuracy: the one that is wanted.
            found: for it.
            data: where the held-out images are.
            split: their split.
            fingerprint: of the split.
            curve: calibrations for further accuracies on the same images. They replace earlier
                ones.
        """
        kept = self._read()
        if kept.get("checkpoint") != self._identity:
            kept = {"checkpoint": self._identity, "accuracies": {}}
        origin = {"data": str(data), "split": split, "fingerprint": fingerprint}
        kept["temperature"] = found.temperature
        kept["accuracies"][repr(float(accuracy))] = {**found._asdict(), **origin}
        if curve:
            kept["curve"] = [[wanted, *point] for wanted, point in sorted(curve.items())]
        with replaced(self.path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1))

    def temperature(self) -> float:
        """Return the temperature of the newest calibration; 1 if this checkpoint has none.

        Raises:
            UserError: if the file is damaged.
        """
        kept = self._read()
        if not kept or kept["checkpoint"] != self._identity:
            return 1.0
        return float(kept.get("temperature", 1.0))

    def generality(self, accuracy: float) -> float:
        """Return how general `hedge` has to be.

        For an accuracy that is not on the curve, the next higher one is used.

        Raises:
            UserError: if the checkpoint is not calibrated for this accuracy, or the file is
                damaged.
        """
        how = (
            f"calibrate with i21k predict --checkpoint {self._workdir} --view hedge "
            f"--accuracy {accuracy} --calibrate DATA"
        )
        kept = self._read()
        if not kept:
            raise UserError(
                f"view 'hedge' is not calibrated for the checkpoint in {self._workdir}; {how}"
            )
        if kept["checkpoint"] != self._identity:
            its, ours = kept["checkpoint"].get("step"), self._origin.step
            raise UserError(
                f"{self.path} belongs to another checkpoint "
                f"(step {its}; the newest is step {ours}); {how}"
            )
        if repr(float(accuracy)) not in kept["accuracies"]:
            for wanted, point in _curve(kept):
                if wanted >= accuracy - 1e-9:
                    return point.generality
            there = ", ".join(kept["accuracies"])
            raise UserError(
                f"view 'hedge' is calibrated for accuracy {there}, not for {accuracy}; {how}"
            )
        return float(kept["accuracies"][repr(float(accuracy))]["generality"])

    def curve(self) -> list[tuple[float, Calibration]]:
        """Return the accuracies that the checkpoint is calibrated for, ascending; maybe none.

        Raises:
            UserError: if the file is damaged.
        """
        kept = self._read()
        if not kept or kept["checkpoint"] != self._identity:
            return []
        wanted = {
            float(accuracy): Calibration(*(entry[field] for field in Calibration._fields))
            for accuracy, entry in kept["accuracies"].items()
        }
        return sorted((dict(_curve(kept)) | wanted).items())

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            kept = parse_json(self.path.read_text())
            for entry in kept["accuracies"].values():
                float(entry["generality"])
            if not 0 < float(kept.get("temperature", 1.0)) < float("inf"):
                raise ValueError(f"temperature {kept['temperature']}")
            _curve(kept)
            known = ("accuracies", "curve", "temperature")
            return {
                "checkpoint": dict(kept["checkpoint"]),
                **{key: kept[key] for key in known if key in kept},
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path} is damaged ({error!r}); remove it and calibrate again"
            ) from error


def _curve(kept: Mapping[str, Any]) -> list[tuple[float, Calibration]]:
    """Return the curve of a file; those of earlier versions have none."""
    return [
        (float(wanted), Calibration(float(generality), float(accuracy), float(specific), int(num)))
        for wanted, generality, accuracy, specific, num in kept.get("curve", [])
    ]
