"""The shapes of the answers in JSON, for the description of the API."""

from collections.abc import Sequence
from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
PROBABILITY: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}


def _object(required: Sequence[str] | None = None, **properties: Any) -> dict[str, Any]:
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def schemas() -> dict[str, Any]:
    """Return all shapes by name."""
    answer = _object(id=TEXT, name=TEXT, probability=PROBABILITY)
    row = _object(
        id=TEXT, name=TEXT, probability={**PROBABILITY, "type": ["number", "null"]}, depth=COUNT
    )
    names = ["model", "view", "answers", "tree"]
    point = _object(wanted=PROBABILITY, accuracy=PROBABILITY, specificity=PROBABILITY)
    error = _object(["code", "message"], code=TEXT, message=TEXT, position=COUNT)
    return {
        "Answers": _object(
            names, id=TEXT, model=TEXT, view=TEXT, answers=_list(answer), tree=_list(row)
        ),
        "Nearest": _object(
            model=TEXT,
            nearest=_list(
                {
                    "type": "object",
                    "properties": {
                        "class": {**_object(id=TEXT, name=TEXT), "type": ["object", "null"]},
                        "number": COUNT,
                        "file": TEXT,
                        "cosine": {"type": "number"},
                    },
                    "required": ["class", "number", "file", "cosine"],
                }
            ),
        ),
        "Models": _object(
            models=_list(
                _object(
                    name=TEXT,
                    num_classes=COUNT,
                    image_size=COUNT,
                    probability={"enum": ["softmax", "sigmoid"]},
                    views={"type": "object"},
                    num_searched=COUNT,
                    accuracy=PROBABILITY,
                    calibrated=_list(point),
                )
            ),
            limits=_object(max_bytes=COUNT, max_pixels=COUNT),
            expression=_object(keywords=_list(TEXT), fold=TEXT),
        ),
        "Tree": _object(
            ids=_list(TEXT),
            names=_list(TEXT),
            parents=_list({"type": "integer"}),
            labels=_list({"type": "integer"}),
        ),
        "Subset": _object(
            num_classes=COUNT, examples=_list(TEXT), error={**error, "type": ["object", "null"]}
        ),
        "Synset": _object(
            id=TEXT,
            name=TEXT,
            words=_list(TEXT),
            meaning=TEXT,
            parents=_list(_object(id=TEXT, name=TEXT)),
        ),
        "Health": _object(status={"const": "ok"}),
        "Error": _object(error=error),
    }
