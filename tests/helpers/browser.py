"""A real browser, where there is one: Chromium, driven by Playwright."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next((path for path in map(shutil.which, NAMES) if path), None)
LACKING = (
    "Playwright is not installed: pip install 'i21k[browser]'"
    if importlib.util.find_spec("playwright") is None
    else "no Chromium is installed"
    if PROGRAM is None
    else ""
)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium for the block, without a window."""
    from playwright.sync_api import sync_playwright

    # Chromium's own sandbox does not work for root in a container; it sees only our page.
    # With /dev/shm of 64 MB, as in containers, it would crash.
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield browser
        finally:
            browser.close()
