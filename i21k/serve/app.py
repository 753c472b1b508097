"""The web application: its routes and their answers.

The whole page is in memory before the first request. No request reaches the file system, except
for the searched images, which have numbers.
"""

import asyncio
import contextlib
import functools
import gzip
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from i21k.errors import UserError
from i21k.images.decode import MAX_PIXELS
from i21k.images.recode import TooManyPixels
from i21k.serve import classes, page_files, parameters
from i21k.serve.batches import Batches
from i21k.serve.bounds import Bounds
from i21k.serve.guard import Guard, respond
from i21k.serve.limits import Limits, RequestError
from i21k.serve.metrics import Metrics
from i21k.serve.models import ServedModel, expression_help
from i21k.serve.openapi import document
from i21k.serve.results import Result, Results

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_NOSCRIPT = " The API is described at /openapi.json."
_FOOT = (
    "Nothing is stored: images are forgotten when they are answered. The same answers come as JSON"
    ' from <code>POST /predict</code>, described in <a href="/openapi.json">openapi.json</a>.'
)


class App:
    """The handlers of all routes, and what they share."""

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.metrics, self.results = Metrics(), Results(limits.results)
        self.batches = {
            name: Batches(model.run, model.batch_sizes, functools.partial(self.metrics.batch, name))
            for name, model in models.items()
        }
        self.feature_batches = {
            name: Batches(model.run_features, model.batch_sizes) for name, model in models.items()
        }
        self.bounds = Bounds(limits)
        self._assets = _read_assets()
        self._openapi = document(list(models), limits)

    def routes(self) -> list[Route]:
        """Return all routes. `openapi.py` describes them."""
        return [
            Route("/", self.page),
            Route("/assets/{name}", self.get_asset),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/results/{result}/answers", self.answers),
            Route("/results/{result}/probabilities", self.probabilities),
            Route("/results/{result}/nearest", self.nearest),
            Route("/models", self.describe),
            Route("/models/{model}/tree", self.tree),
            Route("/models/{model}/subset", self.subset),
            Route("/models/{model}/images/{number}", self.image),
            Route("/synsets/{synset}", self.synset),
            Route("/openapi.json", self.openapi),
            Route("/healthz", self.healthz),
            Route("/metrics", self.get_metrics),
        ]

    # The page

    async def page(self, request: Request) -> Response:
        return self._assets["index.html"]

    async def get_asset(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["name"])
        if found is None:
            raise RequestError(404, "not_found", "There is no such file.")
        return found

    # Predictions

    async def predict(self, request: Request) -> Response:
        model = self._model(request.query_params.get("model"))
        options = parameters.options(request, self.limits)
        # First the body, which has bounds of its own: slow uploads keep nobody out of the queue.
        async with self.bounds.body(request) as data:
            with self.bounds.admitted():
                return JSONResponse(await self._predicted(model, data, options))

    async def _predicted(
        self, model: ServedModel, data: bytes, options: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                image = await self.bounds.in_pool(functools.partial(_prepare, model, data))
                (probabilities,) = await self.batches[model.name].submit(image)
                kept = None if model.index is None else image
                result = Result(model.name, np.asarray(probabilities, np.float32), kept)
                found = await self.bounds.in_pool(
                    functools.partial(model.answers, probabilities, **options)
                )
        except TimeoutError as error:
            raise self.bounds.too_slow() from error
        return {"id": self.results.add(result), "model": model.name, **found}

    async def answers(self, request: Request) -> Response:
        result = self._result(request)
        options = parameters.options(request, self.limits)
        model = self.models[result.model]
        call = functools.partial(model.answers, result.probabilities, **options)
        return JSONResponse({"model": model.name, **await self.bounds.computed(call)})

    async def probabilities(self, request: Request) -> Response:
        result = self._result(request)
        calibrated = self.models[result.model].predictor.calibrated(result.probabilities[None])
        data = calibrated.astype("<f4").tobytes()
        return Response(data, media_type="application/octet-stream")

    async def nearest(self, request: Request) -> Response:
        result = self._result(request)
        model, most = self.models[result.model], self.limits.max_answers
        k = parameters.number(
            request.query_params.get("k", "8"), int, 1, most, f"k from 1 to {most}"
        )
        if result.image is None:
            raise RequestError(
                422,
                "no_features",
                "The server has no features to search. Start it with --features.",
            )
        with self.bounds.admitted():
            try:
                async with asyncio.timeout(self.limits.timeout_s):
                    (features,) = await self.feature_batches[model.name].submit(result.image)
                    found = await self.bounds.in_pool(functools.partial(model.nearest, features, k))
            except TimeoutError as error:
                raise self.bounds.too_slow() from error
        return JSONResponse({"model": model.name, "nearest": found})

    async def image(self, request: Request) -> Response:
        model = self._model(request.path_params["model"])
        text = request.path_params["number"]
        # Python refuses to read thousands of digits; no image has a number of 18.
        is_number = text.isascii() and text.isdigit() and len(text) < 18
        call = functools.partial(model.thumbnail, int(text) if is_number else -1)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(await self.bounds.computed(call), media_type="image/jpeg", headers=headers)

    def _result(self, request: Request) -> Result:
        found = self.results.get(request.path_params["result"])
        if found is None:
            raise RequestError(
                404, "unknown_result", "This result is not kept. Send the image to /predict again."
            )
        return found

    # Models

    async def describe(self, request: Request) -> Response:
        return JSONResponse(
            {
                "models": [model.describe() for model in self.models.values()],
                "limits": {"max_bytes": self.limits.max_bytes, "max_pixels": MAX_PIXELS},
                "expression": expression_help(),
            }
        )

    async def tree(self, request: Request) -> Response:
        model = self._model(request.path_params["model"])
        headers = {"vary": "accept-encoding", "cache-control": "no-cache"}
        data = model.tree
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
        else:
            data = gzip.decompress(data)
        return Response(data, headers=headers, media_type="application/json")

    async def subset(self, request: Request) -> Response:
        model = self._model(request.path_params["model"])
        among = parameters.expression(request, self.limits)
        if among is None:
            raise RequestError(400, "bad_parameter", "among is missing. Give an expression.")
        view = request.query_params.get("view", "subset")
        if view not in ("subset", "fold"):
            raise RequestError(400, "bad_parameter", "view is not known. Use subset or fold.")
        return JSONResponse(
            await self.bounds.computed(functools.partial(model.choose, among, view))
        )

    async def synset(self, request: Request) -> Response:
        return JSONResponse(classes.synset(request.path_params["synset"]))

    def _model(self, name: str | None) -> ServedModel:
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(
                404,
                "unknown_model",
                f"No model has this name. Use one of {', '.join(self.models)}.",
            )
        return self.models[name]

    # About the server

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._openapi)

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def get_metrics(self, request: Request) -> Response:
        gauges = {
            "i21k_requests_in_work": self.bounds.in_work,
            "i21k_images_waiting": sum(map(len, self.batches.values())),
            "i21k_upload_bytes_held": self.bounds.bytes_held,
            "i21k_results_kept": len(self.results),
        }
        return Response(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    def close(self) -> None:
        """End all threads when what they compute is done."""
        for batches in (*self.batches.values(), *self.feature_batches.values()):
            batches.close()
        self.bounds.close()


def build(
    models: Mapping[str, ServedModel], limits: Limits, host_names: Collection[str] = ()
) -> ASGIApp:
    """Return the application.

    Args:
        models: by name; the first answers where a request names none.
        limits: of requests.
        host_names: names under which clients reach the server besides localhost and IP addresses.
    """
    app = App(models, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            app.close()

    inner = Starlette(
        routes=app.routes(),
        lifespan=lifespan,
        exception_handlers={
            RequestError: _as_response,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _internal,
        },
    )
    return Guard(inner, app.metrics, frozenset(name.lower() for name in host_names))


def _read_assets() -> dict[str, Response]:
    """Return the files of the page by name."""
    texts = page_files.page_files()
    texts["index.html"] = page_files.index(noscript=_NOSCRIPT, foot=_FOOT)
    return {
        name: Response(
            text, media_type=_TYPES[name[name.rindex(".") :]], headers={"cache-control": "no-cache"}
        )
        for name, text in texts.items()
    }


def _prepare(model: ServedModel, data: bytes) -> np.ndarray:
    try:
        return model.predictor.trained.prepare(data)
    except UserError as error:
        if isinstance(error.__cause__, TooManyPixels):
            raise RequestError(
                413,
                "too_many_pixels",
                f"The image has more than {MAX_PIXELS:,} pixels. Send a smaller one.",
            ) from error
        raise RequestError(422, "unreadable_image", str(error)) from error


async def _as_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return respond(error)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    text = {404: "There is no such path.", 405: "This path takes another method."}
    body = RequestError(error.status_code, code, text.get(error.status_code, error.detail))
    return JSONResponse(body.to_json(), error.status_code, headers=dict(error.headers or {}))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _internal(_: Request, __: Exception) -> Response:
    """Answer for a fault of the server; its traceback is printed by the server."""
    message = "The server failed. Its log has the reason."
    return respond(RequestError(500, "internal", message))
