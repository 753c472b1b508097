"""A trace of some steps for TensorBoard's profile page, or for Perfetto (ui.perfetto.dev)."""

from collections.abc import Callable
from pathlib import Path

import jax


class Profile:
    """Traces the steps of a run between two step numbers."""

    def __init__(
        self, directory: Path, steps: tuple[int, int] | None, say: Callable[[str], None]
    ) -> None:
        """Prepare; nothing is traced yet.

        Args:
            directory: of TensorBoard's files. The trace is written to `plugins/profile` in it.
            steps: first and last step to trace; None: none.
            say: prints a line.
        """
        self._directory, self._steps, self._say = directory, steps, say
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def before(self, step: int) -> None:
        """Start with the first of the steps. Steps are counted from 1."""
        if self._steps is not None and step == self._steps[0] and not self._running:
            self._say(f"tracing steps {self._steps[0]:,} to {self._steps[1]:,}")
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int) -> None:
        """Stop with the last of the steps, which must be finished on the devices."""
        if self._steps is not None and step >= self._steps[1]:
            self.stop()

    def stop(self) -> None:
        """Write what has been traced, if anything."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self._say(f"trace written to {self._directory / 'plugins' / 'profile'}")
