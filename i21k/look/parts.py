"""Parts of pages: tables, big numbers, bars, cards with images, and the scale of accuracy."""

from collections.abc import Iterable, Sequence

from i21k.look.html import escape, jpeg_address, name


def accuracy_class(accuracy: float) -> str:
    """Return the class of the style sheet for an accuracy from 0 to 1: `a0` to `a10`."""
    return f"a{round(min(max(accuracy, 0.0), 1.0) * 10)}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return `89.8 %` on one line; a dash for None."""
    return "–" if value is None else f"{value * 100:.{digits}f}\u00a0%"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), label: str = ""
) -> str:
    """Return a table.

    Args:
        head: HTML of the heading of each column.
        rows: HTML of the cells. The first cell of a row is its heading.
        numbers: columns that are aligned to the right.
        label: plain text for readers that cannot see the page.
    """
    of = [' class="n"' if k in numbers else "" for k in range(len(head))]
    top = "".join(f'<th scope="col"{c}>{cell}</th>' for c, cell in zip(of, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{c}>{cell}</td>" if k else f'<th scope="row"{c}>{cell}</th>'
            for k, (c, cell) in enumerate(zip(of, row, strict=True))
        )
        + "</tr>\n"
        for row in rows
    )
    caption = f'<caption class="hidden">{escape(label)}</caption>' if label else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{top}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def stats(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return big numbers: label, value and a note of each, as plain text."""
    return (
        '<dl class="stats">'
        + "".join(
            f"<div><dt>{escape(label)}</dt><dd>{escape(value)}"
            + (f"<small>{escape(note)}</small>" if note else "")
            + "</dd></div>"
            for label, value, note in entries
        )
        + "</dl>\n"
    )


def bar(fraction: float, kind: str = "") -> str:
    """Return a bar of a fraction from 0 to 1; by default in the colour of that accuracy."""
    width = min(max(fraction, 0.0), 1.0) * 100
    kind = kind or accuracy_class(fraction)
    return f'<span class="bar"><span class="{kind}" style="width:{width:.1f}%"></span></span>'


def card(jpeg: bytes | None, caption: str, description: str) -> str:
    """Return an image with a caption (HTML); the caption alone without an image.

    Args:
        jpeg: the image.
        caption: HTML below it.
        description: plain text for readers that cannot see it.
    """
    inside = ""
    if jpeg is not None:
        image = f'<img src="{jpeg_address(jpeg)}" alt="{escape(description)}" loading="lazy">'
        inside = f'<div class="frame">{image}</div>'
    return f"<li><figure>{inside}<figcaption>{caption}</figcaption></figure></li>\n"


def cards(items: Iterable[str]) -> str:
    """Return a grid of cards."""
    return f'<ul class="cards">{"".join(items)}</ul>\n'


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns: a heading, and a value; both as HTML."""
    rows = "".join(
        f'<tr><th scope="row" class="soft">{key}</th><td>{value}</td></tr>\n'
        for key, value in entries
    )
    return f'<div class="scroll"><table class="definitions"><tbody>{rows}</tbody></table></div>\n'


def class_name(display_name: str, class_id: str) -> str:
    """Return the name of a class, with its id as a tooltip where it differs."""
    if display_name == class_id:
        return name(display_name)
    return f'<span title="{escape(class_id)}">{name(display_name)}</span>'
