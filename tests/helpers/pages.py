"""A page of a file in a real browser. Tests skip where there is none."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import browser


@contextlib.contextmanager
def opened_page(path: Path, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """Open an HTML file; yield the page, and a list that errors are added to.

    An error is one of a script, and whatever the page loads beside itself.

    Args:
        path: of the file.
        options: of Playwright's `new_page`, such as `viewport` and `color_scheme`.
    """
    if browser.LACKING:
        pytest.skip(browser.LACKING)
    errors: list[str] = []

    def requested(request: Any) -> None:
        if not request.url.startswith((path.as_uri(), "data:")):
            errors.append(f"the page loads {request.url}")

    def said(message: Any) -> None:
        if message.type == "error":
            errors.append(message.text)

    with browser.chromium() as chromium:
        page = chromium.new_page(**options)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", said)
        page.on("request", requested)
        page.goto(path.as_uri())
        yield page, errors
