"""What is in work: a bounded number of requests, of bytes, of threads and of seconds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from i21k.machine import num_cpus
from i21k.serve.limits import Limits, RequestError

T = TypeVar("T")


class Bounds:
    """Counts what requests use, and refuses more than the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.in_work, self.bytes_held = 0, 0
        # For decoding and for views. The networks have threads of their own.
        self._pool = ThreadPoolExecutor(num_cpus(), "prepare")

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as in work during the block, or refuse it."""
        if self.in_work >= self._limits.queue:
            raise RequestError(
                503, "busy", f"{self.in_work} requests are in work or waiting. Try again later."
            )
        self.in_work += 1
        try:
            yield
        finally:
            self.in_work -= 1

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body within its bounds, and count it as held until the block ends."""
        limit, declared = self._limits.max_bytes, request.headers.get("content-length", "0")
        if int(declared) > limit:  # h11 has checked that it is a number
            raise self._too_large()
        parts: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(self._limits.upload_timeout_s):
                async for part in request.stream():
                    held += len(part)
                    self.bytes_held += len(part)
                    if held > limit:
                        raise self._too_large()
                    if self.bytes_held > self._limits.max_bytes_held:
                        raise RequestError(
                            503, "busy", "Too many images are being sent. Try again later."
                        )
                    parts.append(part)
            data = b"".join(parts)
            parts.clear()
            if not data:
                raise RequestError(
                    400, "no_image", "The body is empty. Send the bytes of an image file."
                )
            yield data
        except TimeoutError as error:
            raise RequestError(
                408, "upload_too_slow", "The image did not arrive in time. Send it again."
            ) from error
        finally:
            self.bytes_held -= held

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            "file_too_large",
            f"The file is larger than {self._limits.max_bytes >> 20} MiB. Send a smaller one.",
        )

    def too_slow(self) -> RequestError:
        """Return the error for a request whose time is over."""
        return RequestError(
            504, "too_slow", f"There was no answer within {self._limits.timeout_s:g} s. Try again."
        )

    async def computed(self, call: Callable[[], T]) -> T:
        """Compute within the bounds that predictions have."""
        with self.admitted():
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    return await self.in_pool(call)
            except TimeoutError as error:
                raise self.too_slow() from error

    async def in_pool(self, call: Callable[[], T]) -> T:
        """Compute in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads when what they compute is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
