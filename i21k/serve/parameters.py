"""The parameters of requests, checked."""

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from i21k.prediction.model_views import VIEWS
from i21k.serve.limits import Limits, RequestError

T = TypeVar("T")


def options(request: Request, limits: Limits) -> dict[str, Any]:
    """Return the parameters of a view."""
    query = request.query_params
    view = query.get("view", "top")
    if view not in VIEWS:
        raise RequestError(
            400, "bad_parameter", f"view is not known. Use one of {', '.join(VIEWS)}."
        )
    most = limits.max_answers
    k = number(query.get("k", "5"), int, 1, most, f"k, a whole number from 1 to {most}")
    accuracy = number(
        query.get("accuracy", "0.9"), float, 0.0, 1.0, "accuracy, a number from 0 to 1"
    )
    among = expression(request, limits)
    if among is not None and view not in ("subset", "fold"):
        raise RequestError(
            400, "bad_parameter", f"The view {view} takes no among. Use subset or fold."
        )
    if among is None and view == "subset":
        raise RequestError(400, "bad_parameter", "The view subset needs among. Give it.")
    return {"view": view, "k": k, "accuracy": accuracy, "among": among}


def expression(request: Request, limits: Limits) -> str | None:
    """Return the parameter `among`."""
    among = request.query_params.get("among")
    if among is not None and len(among) > limits.max_expression:
        raise RequestError(
            400,
            "bad_parameter",
            f"among has {len(among):,} characters. Use at most {limits.max_expression:,}.",
        )
    return among


def number(text: str, kind: Callable[[str], T], least: T, most: T, expected: str) -> T:
    """Return a parameter as a number from `least` to `most`, or refuse it as not `expected`."""
    try:
        value = kind(text)
        if not least <= value <= most:  # type: ignore[operator]
            raise ValueError
    except ValueError as error:
        raise RequestError(400, "bad_parameter", f"Expected {expected}.") from error
    return value
