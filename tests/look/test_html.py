"""Pages that hold names of any kind."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from i21k.look import html

HOSTILE = "</script><script>alert(1)</script>\x00\x1b[31m\u202e\udcff\"'&"


class Elements(HTMLParser):
    """Collects the names of all elements, and attributes that run code."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [key for key, _ in attrs if key.startswith("on")]


def test_names_become_text() -> None:
    parser = Elements()
    parser.feed(html.name(HOSTILE) + f'<img alt="{html.escape(HOSTILE)}" src="x">')
    assert parser.tags == ["bdi", "img"] and parser.handlers == []
    html.name(HOSTILE).encode("utf-8")  # no lone surrogates
    assert "\u2400" in html.name(HOSTILE) and "\u202e" not in html.name(HOSTILE)


@pytest.mark.parametrize("text", ["猫", "Käfer", "🦋", "قط", "👩‍🔬"])
def test_any_script_stays(text: str) -> None:
    assert html.escape(text) == text


def test_data_do_not_end_their_element() -> None:
    block = html.data_block("x", {HOSTILE: [1.5, None, "猫"]})
    assert block.count("<") == 2
    content = re.fullmatch("<script[^>]*>(.*)</script>", block)
    assert content and json.loads(content[1]) == {HOSTILE: [1.5, None, "猫"]}


def test_a_page_runs_its_own_scripts_only() -> None:
    script = "document.title = 'é';"
    page = html.page(HOSTILE, "", [("one", HOSTILE, "<p>text</p>")], scripts=[script])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and f"<script>{script}</script>" in page
    assert "default-src 'none'" in page
    parser = Elements()
    parser.feed(page)
    assert parser.tags.count("script") == 1 and parser.tags.count("section") == 1
    assert "script-src 'none'" in html.page("t", "", [])
