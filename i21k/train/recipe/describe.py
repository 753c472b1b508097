"""What `launch.py --help` and the documentation show of the keys."""

from typing import Any, NamedTuple

from i21k.train.recipe.fields import keys, type_text


class KeyInfo(NamedTuple):
    """What `launch.py --help` and the documentation show of a key."""

    name: str
    type: str
    default: Any
    help: str
    may_change: bool | str


def describe_keys() -> list[KeyInfo]:
    """Return all keys in the order of the dataclasses."""
    return [
        KeyInfo(
            name,
            type_text(hint),
            field.default,
            field.metadata["help"],
            field.metadata["may_change"],
        )
        for name, hint, field in keys()
    ]


def markdown_table() -> str:
    """Return the keys as a Markdown table."""
    lines = [
        "| key | type | default | may change on resume | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for info in describe_keys():
        if isinstance(info.may_change, bool):
            change = "yes" if info.may_change else "no"
        else:
            change = f"with {info.may_change}"
        default = f"{info.default:g}" if isinstance(info.default, float) else info.default
        lines.append(f"| `{info.name}` | {info.type} | `{default}` | {change} | {info.help} |")
    return "\n".join(lines) + "\n"
