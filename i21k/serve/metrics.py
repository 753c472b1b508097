"""Counters of the server in the text format of Prometheus."""

import bisect
import collections
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """How often a value was at most each of some bounds."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._total += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        separator = "," if labels else ""
        cumulative = list(itertools.accumulate(self._counts))
        for bound, count in zip((*self._bounds, "+Inf"), cumulative, strict=True):
            yield f'{name}_bucket{{{labels}{separator}le="{bound}"}} {count}'
        shown = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{shown} {self._total:.6f}"
        yield f"{name}_count{shown} {cumulative[-1]}"


class Metrics:
    """What the server has done since it was started."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self._seconds: dict[str, Histogram] = {}
        self._batches: dict[str, Histogram] = {}
        self._images: collections.Counter[str] = collections.Counter()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request by its route, which is one of few, and its status."""
        self._requests[route, status] += 1
        self._seconds.setdefault(route, Histogram(_SECONDS)).observe(seconds)

    def batch(self, model: str, size: int) -> None:
        """Count a batch of images."""
        self._images[model] += size
        self._batches.setdefault(model, Histogram(_SIZES)).observe(size)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all counters and the present values `gauges`."""
        lines = ["# TYPE i21k_requests_total counter"]
        lines += [
            f'i21k_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self._requests.items())
        ]
        lines.append("# TYPE i21k_request_seconds histogram")
        for route, seconds in sorted(self._seconds.items()):
            lines += seconds.lines("i21k_request_seconds", f'route="{route}"')
        lines.append("# TYPE i21k_images_total counter")
        lines += [
            f'i21k_images_total{{model="{_quoted(model)}"}} {count}'
            for model, count in sorted(self._images.items())
        ]
        lines.append("# TYPE i21k_batch_images histogram")
        for model, sizes in sorted(self._batches.items()):
            lines += sizes.lines("i21k_batch_images", f'model="{_quoted(model)}"')
        for name, value in {
            "i21k_uptime_seconds": round(time.monotonic() - self._started_at, 3),
            **gauges,
        }.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
