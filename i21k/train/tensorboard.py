"""Write TensorBoard's event files so that a full, failing or hanging disk never disturbs the run.

tensorboardX's own writer thread ends with the first error, and then the run waits for it for ever.
Its queue also needs shared memory, which a container may lack.
"""

import contextlib
import os
import queue
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import tensorboardX
from tensorboardX.event_file_writer import event_pb2
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.writer import Event, FileWriter, SessionLog

from i21k import log

_MOST_EVENTS = 10_000  # our choice: that wait for the disk; further ones are dropped
_RETRY_S = 30.0  # our choice: between two tries after an error
_CLOSE_S = 5.0  # our choice: that the end of a run waits for a disk


class TensorBoard(tensorboardX.SummaryWriter):
    """A `SummaryWriter` whose calls return at once and never raise because of the disk."""

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer: FileWriter = _Writer(self.logdir)
            self.all_writers = {self.logdir: self.file_writer}
            if self.purge_step is not None:
                for content in (
                    {"file_version": "brain.Event:2"},
                    {"session_log": SessionLog(status=SessionLog.START)},
                ):
                    self.file_writer.add_event(Event(step=self.purge_step, **content))
        return self.file_writer


class _Writer(FileWriter):
    def __init__(self, directory: str) -> None:
        self.event_writer = EventFiles(Path(directory))
        self._default_metadata: dict[str, Any] = {}


class EventFiles:
    """Appends events to a file from a thread. After an error it tries again, with another file."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._events = directory, queue.Queue[bytes | None](_MOST_EVENTS)
        self._path: Path | None = None
        self._num_files = 0
        self._thread = threading.Thread(target=self._write_all, name="tensorboard", daemon=True)
        self._thread.start()

    def get_logdir(self) -> str:
        return str(self._directory)

    def add_event(self, event: Any) -> None:
        with contextlib.suppress(queue.Full):  # the thread has said why
            self._events.put_nowait(event.SerializeToString())

    def flush(self) -> None:
        """Do nothing: each event is written when it comes."""

    def close(self) -> None:
        """Wait a few seconds for the disk."""
        try:
            self._events.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_CLOSE_S)

    def _write_all(self) -> None:
        failed = False
        while (event := self._events.get()) is not None:
            while not self._wrote(event, complain=not failed):
                failed = True
                time.sleep(_RETRY_S)
            failed = False

    def _wrote(self, event: bytes, complain: bool) -> bool:
        size = None
        try:
            if self._path is None:
                self._start_file()
            assert self._path is not None
            with self._path.open("ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                _write(file.fileno(), _record(event))
            return True
        except OSError as error:
            if self._path is not None and size is not None:
                try:
                    os.truncate(self._path, size)  # a reader stops at half a record
                except OSError:
                    self._path = None
            if complain:
                log.warning(
                    f"{self._directory} cannot be written ({error.strerror}). The run continues and"
                    " tries again."
                )
            return False

    def _start_file(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._num_files += 1
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        path = self._directory / f"{name}.{os.getpid()}.{self._num_files}"
        first = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
        with path.open("wb", buffering=0) as file:
            _write(file.fileno(), _record(first.SerializeToString()))
        self._path = path


def _record(data: bytes) -> bytes:
    """Return a record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    crcs = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + crcs[0] + data + crcs[1]


def _write(descriptor: int, data: bytes) -> None:
    while data:  # a disk that becomes full may take a part
        data = data[os.write(descriptor, data) :]
