"""Training time of an epoch, without compilation, evaluation and checkpoints."""

import time


class Clock:
    """Counts training time, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.train_s = self.wait_s = 0.0
        self.images = self.steps = 0
        self._since: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Do not count the time until the next lap or start."""
        self._since = None

    def is_running(self) -> bool:
        return self._since is not None

    def lap(self, images: int, wait_s: float) -> None:
        """Count the time since the last lap as one step's; none if the clock was not started."""
        now = time.perf_counter()
        if self._since is not None:
            self.train_s += now - self._since
            self.wait_s += wait_s
            self.images += images
            self.steps += 1
        self._since = now

    def settle(self) -> None:
        """Add the time since the last lap to that lap's step: the wait for its result."""
        now = time.perf_counter()
        if self._since is not None:
            self.train_s += now - self._since
            self._since = now

    def next(self) -> "Clock":
        """Return an empty clock that counts from the last lap of this one."""
        following = Clock()
        following._since = self._since
        return following

    def images_per_s(self) -> float:
        return self.images / self.train_s if self.train_s else 0.0

    def wait_fraction(self) -> float:
        return self.wait_s / self.train_s if self.train_s else 0.0

    def state(self) -> dict[str, float]:
        """Return what a checkpoint stores."""
        return {
            "train_s": self.train_s,
            "wait_s": self.wait_s,
            "images": self.images,
            "steps": self.steps,
        }

    def restore(self, state: dict[str, float]) -> None:
        self.train_s, self.wait_s = float(state["train_s"]), float(state["wait_s"])
        self.images, self.steps = int(state["images"]), int(state["steps"])
