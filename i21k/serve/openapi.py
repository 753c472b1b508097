"""The description of the API in the form of OpenAPI 3.1. A test compares it with the routes."""

from collections.abc import Sequence
from typing import Any

from i21k.prediction.model_views import FOLD_ONTO, VIEWS
from i21k.serve.limits import Limits
from i21k.serve.openapi_schemas import COUNT, PROBABILITY, TEXT, schemas


def document(models: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Return the document for a server with these models and limits."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "i21k serve",
            "version": "1",
            "description": "Classify images, and see the answers in six views of WordNet.",
        },
        "paths": {
            "/predict": {"post": _predict(models, limits)},
            "/results/{result}/answers": {
                "get": {
                    "summary": "Answer in another view for an image that was sent before.",
                    "parameters": [_in_path("result", "id of an answer of /predict"), *_view()],
                    "responses": _responses(_json("Answers"), 400, 404, 422, 503, 504),
                }
            },
            "/results/{result}/probabilities": {
                "get": {
                    "summary": "The probability of each class, in the order of the model's labels.",
                    "parameters": [_in_path("result", "id of an answer of /predict")],
                    "responses": _responses(
                        _binary("float32, little-endian, one number for each class"), 404
                    ),
                }
            },
            "/results/{result}/nearest": {
                "get": {
                    "summary": "The searched images that are nearest to one that was sent.",
                    "parameters": [
                        _in_path("result", "id of an answer of /predict"),
                        {
                            "name": "k",
                            "in": "query",
                            "schema": {"type": "integer", "minimum": 1, "default": 8},
                        },
                    ],
                    "responses": _responses(_json("Nearest"), 400, 404, 422, 503, 504),
                }
            },
            "/models": {
                "get": {
                    "summary": "The models, their views and calibration, and the limits.",
                    "responses": _responses(_json("Models")),
                }
            },
            "/models/{model}/tree": {
                "get": {
                    "summary": "All classes and the synsets above them, each below one parent.",
                    "parameters": [_in_path("model", "name of a model")],
                    "responses": _responses(_json("Tree"), 404),
                }
            },
            "/models/{model}/subset": {
                "get": {
                    "summary": "How many classes an expression chooses, or what is wrong with it.",
                    "parameters": [
                        _in_path("model", "name of a model"),
                        {**_among(), "required": True},
                        {
                            "name": "view",
                            "in": "query",
                            "description": "Whether classes or synsets to fold onto are chosen.",
                            "schema": {"enum": ["subset", "fold"], "default": "subset"},
                        },
                    ],
                    "responses": _responses(_json("Subset"), 400, 404, 422, 503, 504),
                }
            },
            "/models/{model}/images/{number}": {
                "get": {
                    "summary": "A searched image, small.",
                    "parameters": [
                        _in_path("model", "name of a model"),
                        {**_in_path("number", "number of a nearest image"), "schema": COUNT},
                    ],
                    "responses": _responses(_binary("an image", "image/jpeg"), 404, 503, 504),
                }
            },
            "/synsets/{synset}": {
                "get": {
                    "summary": "Words, meaning and parents of a synset.",
                    "parameters": [_in_path("synset", "id such as n02084071")],
                    "responses": _responses(_json("Synset"), 404),
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This document.",
                    "responses": _responses(_json(None)),
                }
            },
            "/healthz": {
                "get": {
                    "summary": "Whether the server answers.",
                    "responses": _responses(_json("Health")),
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Counters in the text format of Prometheus.",
                    "responses": _responses(
                        {"description": "counters", "content": {"text/plain": {"schema": TEXT}}}
                    ),
                }
            },
        },
        "components": {"schemas": schemas()},
    }


def _predict(models: Sequence[str], limits: Limits) -> dict[str, Any]:
    model = {
        "name": "model",
        "in": "query",
        "description": "Name of a model. The first by default.",
        "schema": {"type": "string", "enum": list(models)},
    }
    return {
        "summary": "Classify an image.",
        "description": "The body is the content of an image file: JPEG, PNG, GIF, BMP, WebP, TIFF"
        f" or AVIF, of at most {limits.max_bytes >> 20} MiB. Its type is recognised by its content."
        " Concurrent requests are computed together.",
        "parameters": [model, *_view()],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        },
        "responses": _responses(_json("Answers"), 400, 404, 408, 413, 422, 503, 504),
    }


def _view() -> list[dict[str, Any]]:
    return [
        {
            "name": "view",
            "in": "query",
            "description": ". ".join(f"{name}: {about}" for name, about in VIEWS.items()),
            "schema": {"type": "string", "enum": list(VIEWS), "default": "top"},
        },
        {
            "name": "k",
            "in": "query",
            "description": "At most this many answers. hedge gives one.",
            "schema": {"type": "integer", "minimum": 1, "default": 5},
        },
        {
            "name": "accuracy",
            "in": "query",
            "description": "Fraction of images for which hedge has to be right.",
            "schema": {**PROBABILITY, "default": 0.9},
        },
        _among(),
    ]


def _among() -> dict[str, Any]:
    return {
        "name": "among",
        "in": "query",
        "description": "Expression: the classes of subset, or the synsets of fold, by default"
        f" {FOLD_ONTO}.",
        "schema": TEXT,
        "example": "leaf & under(dog)",
    }


def _in_path(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": about, "schema": TEXT}


def _json(schema: str | None) -> dict[str, Any]:
    shown = {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}
    return {"description": "The answer.", "content": {"application/json": {"schema": shown}}}


def _binary(about: str, kind: str = "application/octet-stream") -> dict[str, Any]:
    return {"description": about, "content": {kind: {"schema": TEXT}}}


_ERRORS = {
    400: "A parameter is wrong, or the body is empty.",
    404: "There is no such model, result or synset.",
    408: "The image did not arrive in time.",
    413: "The file or the image is too large.",
    422: "The image cannot be read, the expression is wrong, or the view cannot be used.",
    503: "The queue is full. Try again after the seconds of Retry-After.",
    504: "There was no answer in time.",
}


def _responses(fine: dict[str, Any], *errors: int) -> dict[str, Any]:
    error = _json("Error")["content"]
    return {
        "200": fine,
        **{str(status): {"description": _ERRORS[status], "content": error} for status in errors},
        "403": {"description": "The request comes from a page of another site.", "content": error},
        "421": {"description": "The host name is not one of the server.", "content": error},
    }
