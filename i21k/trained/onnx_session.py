"""Run an ONNX model that may come from anyone with onnxruntime on the CPU."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from i21k.errors import UserError

_MAX_GROWTH = 8 << 30  # bytes, our choice: no classifier of images needs more for one batch
_STATM = Path("/proc/self/statm")


class OnnxSession:
    """A model that is loaded. What onnxruntime refuses is a `UserError` that names the file."""

    def __init__(self, path: Path, content: bytes, weights_folder: bytes) -> None:
        """Load a model.

        Args:
            path: for messages.
            content: the model, which may refer to files with weights.
            weights_folder: where those are.

        Raises:
            UserError: if onnxruntime refuses it.
        """
        import onnxruntime

        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", weights_folder
        )
        with self._failures("loaded"), _little_memory(4 * len(content)):
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return outputs by name.

        Raises:
            UserError: if onnxruntime refuses the inputs, or fails.
        """
        with self._failures("run"):
            return self._session.run(names, inputs)

    def try_run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs, with a limit to the memory that a graph of unknown origin takes.

        Raises:
            UserError: if onnxruntime refuses the inputs, or fails.
        """
        with self._failures("run"), _little_memory(0):
            return dict(zip(self.outputs, self._session.run(self.outputs, inputs), strict=True))

    @contextlib.contextmanager
    def _failures(self, done: str) -> Iterator[None]:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        own: list[type[Exception]] = [
            kind
            for kind in vars(state).values()
            if isinstance(kind, type) and issubclass(kind, Exception)
        ]
        own.append(UnicodeDecodeError)  # of a message that quotes the file
        try:
            yield
        except MemoryError as error:
            raise UserError(
                f"{self._path} needs more than {_MAX_GROWTH >> 30} GiB of memory. It is damaged, or"
                " no image classifier."
            ) from error
        except tuple(own) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise UserError(
                f"{self._path} cannot be {done} by onnxruntime ({reason}). Check it with the"
                " program that wrote it."
            ) from error


@contextlib.contextmanager
def _little_memory(more: int) -> Iterator[None]:
    """Let this process's memory grow by at most `_MAX_GROWTH + more` bytes.

    Systems that allow no such limit go without it.

    A small file can have a graph that makes huge arrays while it is loaded or run.
    """
    if not _STATM.exists():  # not Linux
        yield
        return
    used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + _MAX_GROWTH + more
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
