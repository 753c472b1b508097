"""Self-contained HTML pages: escaping, data in scripts, and the frame with its security policy.

A page loads nothing. Its policy allows the scripts of this package by their hashes and no other, so
that a name which escaped the escaping could still not run.
"""

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

_CONTROL_PICTURES = 0x2400  # Unicode: control character c is shown as U+2400 + c
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: object) -> str:
    """Return a text in which every character can be shown: no controls, no lone surrogates.

    Names of files and classes may hold anything.
    """
    return "".join(map(_shown, str(text)))


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if character.isascii():
        return "\u2421" if code == 0x7F else character
    if unicodedata.category(character) in ("Cc", "Cs", "Co") or character in _DIRECTIONS:
        return "\ufffd"
    return character


def escape(text: object) -> str:
    """Return a text for the content of an element or a quoted attribute."""
    return html.escape(visible(text), quote=True)


def name(text: object) -> str:
    """Return an element with a name of any script, whose direction does not affect its
    surroundings."""
    return f"<bdi>{escape(text)}</bdi>"


def data_block(block_id: str, value: Any) -> str:
    """Return an element with JSON that scripts of the page read. Nothing in it ends the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(block_id)}">{text}</script>'


def jpeg_address(jpeg: bytes) -> str:
    """Return the `data:` address of a JPEG."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def asset(file: str, package: str = "i21k.look") -> str:
    """Return a file of package data, such as a style sheet or a script."""
    return resources.files(package).joinpath(file).read_text("utf-8")


def page(
    title: str,
    masthead: str,
    sections: Sequence[tuple[str, str, str]],
    *,
    styles: Iterable[str] = (),
    scripts: Iterable[str] = (),
    foot: str = "",
) -> str:
    """Return a whole page.

    Args:
        title: of the window, as plain text.
        masthead: HTML above the table of contents.
        sections: id, heading (plain text) and HTML of each.
        styles: style sheets after the shared one.
        scripts: run at the end of the page.
        foot: HTML at the end.
    """
    scripts = list(scripts)
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none';"
        f" form-action 'none'; script-src {hashes}"
    )
    links = "".join(
        f'<li><a href="#{escape(anchor)}">{escape(heading)}</a></li>'
        for anchor, heading, _ in sections
    )
    body = "\n".join(
        f'<section id="{escape(anchor)}" aria-labelledby="{escape(anchor)}-h">'
        f'<h2 id="{escape(anchor)}-h">{escape(heading)}</h2>\n{content}</section>'
        for anchor, heading, content in sections
    )
    style = "\n".join((asset("look.css"), *styles))
    code = "".join(f"<script>{script}</script>\n" for script in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#{escape(sections[0][0]) if sections else ""}">Skip to the content</a>
<header class="masthead">{masthead}</header>
<nav class="toc" aria-label="Sections"><ul>{links}</ul></nav>
<main>
{body}
</main>
<footer class="foot">{foot}</footer>
{code}</body>
</html>
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
