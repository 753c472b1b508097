"""Images of concurrent requests gathered into batches for one model.

Nothing waits for a batch to fill: an idle model takes one image at once, and a busy one finds those
that came in the meantime. So batches grow with the load and a single visitor has no delay.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Outputs = tuple[np.ndarray, ...]


class Batches:
    """A queue in front of a function of images. Used from one event loop."""

    def __init__(
        self,
        run: Callable[[np.ndarray], Outputs],
        sizes: Sequence[int],
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the thread of the function.

        Args:
            run: from images [B, S, S, 3] to arrays [B, ...]. It is never called concurrently.
            sizes: numbers of images that `run` takes, 1 among them. A batch is never padded: seven
                images become batches of 4, 2 and 1, which costs less on a CPU than a padded 8.
            observe: called with the size of each batch.
        """
        assert 1 in sizes
        self._run, self._observe = run, observe
        self._sizes = sorted(sizes, reverse=True)
        self._waiting: collections.deque[tuple[np.ndarray, asyncio.Future[Outputs]]]
        self._waiting = collections.deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many images are waiting."""
        return len(self._waiting)

    async def submit(self, image: np.ndarray) -> Outputs:
        """Return the outputs for one image [S, S, 3]. Whoever is cancelled is not computed."""
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            images = np.stack([image for image, _ in batch])
            try:
                found = await loop.run_in_executor(self._thread, self._run, images)
            # Broad: whatever the model raises belongs to the requests of this batch.
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._observe(len(batch))
            for number, (_, future) in enumerate(batch):
                if not future.done():
                    future.set_result(tuple(array[number] for array in found))
        self._task = None

    def _next(self) -> list[tuple[np.ndarray, "asyncio.Future[Outputs]"]]:
        """Take the largest batch that the waiting images fill."""
        live = [item for item in self._waiting if not item[1].done()]
        size = next((size for size in self._sizes if size <= len(live)), 0)
        self._waiting = collections.deque(live[size:])
        return live[:size]

    def close(self) -> None:
        """End the thread when the batch that it computes is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)
