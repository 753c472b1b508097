"""What a trained model is, whatever framework it comes from. Nothing here depends on one."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from i21k.labels import ClassList
from i21k.models.probabilities import Probability
from i21k.trained.preprocessing import AnyImage, Preprocessing

BATCH_SIZE = 8  # our choice: what a model takes at a time on a CPU


class Origin(NamedTuple):
    """Where a trained model comes from."""

    path: str
    step: int
    digest: str  # of the description, which has the digests of all arrays; or of the file

    def __str__(self) -> str:
        return f"{self.path}, step {self.step:,}"


@runtime_checkable
class TrainedModel(Protocol):
    """A model that is ready to answer."""

    batch_size: int  # how many images it takes at a time; changes speed and memory only
    train_fingerprint: str | None  # of the split that it was trained on, where that is known
    class_counts: Int[np.ndarray, " K"] | None  # training images of each class, where known

    @property
    def classes(self) -> ClassList:
        """The classes, in the order of the outputs."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What has to happen to an image first."""

    @property
    def origin(self) -> Origin:
        """Where the model comes from."""

    @property
    def probability(self) -> Probability:
        """Whether the classes exclude each other ("softmax") or not ("sigmoid")."""

    def prepare(self, image: AnyImage) -> UInt8[np.ndarray, "S S 3"]:
        """Return the input for a file, bytes, a PIL image or an array."""

    def probabilities(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B K"]:
        """Return the probability of each class. Images do not influence each other."""

    def features(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B F"]:
        """Return what the classifier head takes: a description of the image without classes.

        Raises:
            UserError: if a model of another program does not give them.
        """


@contextlib.contextmanager
def in_batches_of(model: TrainedModel, batch_size: int) -> Iterator[None]:
    """Let a model take `batch_size` images at a time inside the block, then as many as before."""
    before, model.batch_size = model.batch_size, batch_size
    try:
        yield
    finally:
        model.batch_size = before
