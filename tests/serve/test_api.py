"""The API: answers equal to the predictor's, bounds, errors, and what strangers may not do."""

import concurrent.futures
import contextlib
import io
import json
import re
import socket
import threading
import time
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from i21k.interop import export
from i21k.prediction.embed import embed
from i21k.prediction.model_views import fold_onto
from i21k.prediction.predictor import Predictor
from i21k.prediction.search import search
from i21k.serve import app as application
from i21k.serve import openapi
from i21k.serve.limits import Limits
from i21k.serve.models import ServedModel, served
from i21k.wordnet.taxonomy import wordnet
from tests.helpers.models import save_random_model
from tests.helpers.pngs import bomb
from tests.helpers.serving import serving
from tests.serve.conftest import png

VIEWS = {
    "top": "view=top",
    "subset": "view=subset&among=under(n01440764)%7Cunder(n01484850)",
    "fold": "view=fold&among=basic",
    "diverse": "view=diverse&k=3",
    "hedge": "view=hedge&accuracy=0.9",
    "basic": "view=basic",
}
OPTIONS = {
    "subset": {"among": "under(n01440764)|under(n01484850)"},
    "fold": {"among": "basic"},
    "diverse": {"k": 3},
}


def close_to(answers, expected):
    assert [a["id"] for a in answers] == [e.id for e in expected]
    assert [a["name"] for a in answers] == [wordnet().name(e.id) for e in expected]
    np.testing.assert_allclose(
        [a["probability"] for a in answers], [e.probability for e in expected], rtol=1e-4
    )


@pytest.mark.parametrize("view", VIEWS)
def test_answers_are_those_of_the_predictor(page, models, view):
    image = png(1)
    expected = models["small"].predictor.predict(image, view, **OPTIONS.get(view, {}))
    reply = page.send("POST", f"/predict?{VIEWS[view]}", image)
    assert reply.status == 200, reply.body
    found = reply.json
    close_to(found["answers"], expected)
    again = page.get(f"/results/{found['id']}/answers?{VIEWS[view]}").json
    assert again == {key: found[key] for key in ("model", "view", "answers", "tree")}
    in_tree = {row["id"]: row["probability"] for row in found["tree"]}
    assert found["tree"][0]["depth"] == 0
    assert {a["id"]: a["probability"] for a in found["answers"]}.items() <= in_tree.items()


def test_probabilities_add_up_along_the_tree(page, models):
    result = page.send("POST", "/predict", png(2)).json["id"]
    reply = page.get(f"/results/{result}/probabilities")
    probabilities = np.frombuffer(reply.body, "<f4")
    predictor = models["small"].predictor
    np.testing.assert_allclose(
        probabilities, predictor.calibrated(predictor.probabilities([png(2)]))[0], rtol=1e-4
    )
    tree = page.get("/models/small/tree").json
    mass = [0.0 if label < 0 else float(probabilities[label]) for label in tree["labels"]]
    for node in reversed(range(1, len(mass))):
        assert tree["parents"][node] < node
        mass[tree["parents"][node]] += mass[node]
    assert tree["parents"][0] == -1 and mass[0] == pytest.approx(1, abs=1e-5)
    assert sorted(label for label in tree["labels"] if label >= 0) == [0, 1, 2, 3]


def test_concurrent_requests_share_batches_and_get_their_own_answers(models):
    model = models["small"]
    images = [png(seed % 4, seed) for seed in range(12)]
    expected = [model.predictor.predict(image)[0] for image in images]
    entered, go = threading.Event(), threading.Event()

    class Slow(ServedModel):
        def run(self, batch):
            entered.set()
            assert go.wait(30)
            return super().run(batch)

    slow = {"small": Slow("small", model.predictor, 2)}
    with serving(slow) as page, concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = [pool.submit(page.send, "POST", "/predict?k=1", image) for image in images]
        assert entered.wait(30)
        page.wait_for("images_waiting", 10)  # the first batch has 1 or 2 of 12
        go.set()
        for reply, one in zip(replies, expected, strict=True):
            close_to(reply.result().json["answers"], [one])
        text = page.get("/metrics").body.decode()
    assert 'i21k_images_total{model="small"} 12' in text
    (batches,) = re.findall(r'i21k_batch_images_count{model="small"} (\d+)', text)
    assert 6 <= int(batches) <= 8  # of 2, but the first and the last
    assert 'i21k_requests_total{route="/predict",status="200"} 12' in text


def test_a_full_queue_and_a_slow_model_are_errors_and_nothing_more(models):
    go = threading.Event()

    class Stuck(ServedModel):
        def run(self, batch):
            assert go.wait(30)
            return super().run(batch)

    stuck = {"small": Stuck("small", models["small"].predictor, 2)}
    with (
        serving(stuck, queue=2, timeout_s=1.0) as page,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(page.send, "POST", "/predict", png(0)) for _ in range(2)]
        page.wait_for("requests_in_work", 2)
        refused = page.send("POST", "/predict", png(0))
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "busy", "1")
        assert page.get("/healthz").json == {"status": "ok"}
        late = [reply.result() for reply in waiting]
        assert {(reply.status, reply.code) for reply in late} == {(504, "too_slow")}
        go.set()
        assert page.send("POST", "/predict", png(0)).status == 200


def test_slow_uploads_keep_nobody_out_of_the_queue(models):
    with serving(models, queue=2) as page, contextlib.ExitStack() as stack:
        address = urllib.parse.urlsplit(page.address)
        head = f"POST /predict HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: 9000\r\n\r\n"
        for _ in range(4):
            link = socket.create_connection((address.hostname, address.port))
            stack.enter_context(link)
            link.sendall(head.encode() + b"the beginning")
        time.sleep(0.5)  # for the server to read them
        assert page.send("POST", "/predict", png(0)).status == 200


def test_a_fault_of_the_model_is_an_error_of_its_requests_only(models, caplog):
    class Faulty(ServedModel):
        def run(self, batch):
            if batch.max() == 0:
                raise RuntimeError("secret text")
            return super().run(batch)

    black = application.np.zeros((8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(black).save(file, "PNG")
    with serving({"small": Faulty("small", models["small"].predictor, 2)}) as page:
        reply = page.send("POST", "/predict", file.getvalue())
        assert (reply.status, reply.code) == (500, "internal")
        assert b"secret" not in reply.body
        assert page.send("POST", "/predict", png(0)).status == 200
    assert "secret text" in caplog.text  # the log has the traceback


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/predict", b"just text", 422, "unreadable_image"),
        ("/predict", b"", 400, "no_image"),
        ("/predict", bomb(), 413, "too_many_pixels"),
        ("/predict", bytes((1 << 20) + 1), 413, "file_too_large"),
        ("/predict", png(0)[:200], 422, "unreadable_image"),
        ("/predict?model=none", png(0), 404, "unknown_model"),
        ("/predict?view=best", png(0), 400, "bad_parameter"),
        ("/predict?k=0", png(0), 400, "bad_parameter"),
        ("/predict?k=1e3", png(0), 400, "bad_parameter"),
        ("/predict?k=999999999", png(0), 400, "bad_parameter"),
        ("/predict?view=hedge&accuracy=nan", png(0), 400, "bad_parameter"),
        ("/predict?view=hedge&accuracy=0.999", png(0), 422, "accuracy_not_calibrated"),
        ("/predict?view=subset", png(0), 400, "bad_parameter"),
        ("/predict?view=top&among=dog", png(0), 400, "bad_parameter"),
        ("/predict?view=subset&among=dog", png(0), 422, "bad_expression"),
        ("/predict?view=subset&among=" + "(" * 499, png(0), 422, "bad_expression"),
        ("/predict?view=subset&among=" + "!" * 499, png(0), 422, "bad_expression"),
        ("/predict?view=subset&among=" + "!" * 501, png(0), 400, "bad_parameter"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, (str, int)) else "",
)
def test_errors_are_clear(page, path, body, status, code):
    reply = page.send("POST", path, body)
    assert (reply.status, reply.code) == (status, code)
    message = reply.json["error"]["message"]
    assert message.endswith((".", "?", ")", "PPM", "here")) or code == "bad_expression"
    assert "/" not in message.replace("and/or", "")  # no path of the machine


def test_a_chunked_body_has_the_same_limit(page):
    parts = iter([bytes(1 << 19)] * 3)
    assert page.send("POST", "/predict", parts).code == "file_too_large"


def test_an_error_in_an_expression_has_its_position(page, models):
    found = page.get("/models/small/subset?among=leaf%20%26%20under(dgo)").json
    assert found["num_classes"] == 0 and found["examples"] == []
    assert found["error"]["code"] == "bad_expression"
    assert found["error"]["position"] == len("leaf & under(")
    assert "Did you mean" in found["error"]["message"]
    fine = page.get("/models/small/subset?among=under(shark)").json
    assert fine == {
        "num_classes": 2,
        "examples": ["great white shark", "tiger shark"],
        "error": None,
    }
    fold = page.get("/models/small/subset?among=under(shark)&view=fold").json
    onto = fold_onto("under(shark)", models["small"].predictor.hierarchy)
    assert fold["num_classes"] == len(onto) > 2 and fold["error"] is None
    refused = page.send("POST", "/predict?view=subset&among=leaf%20%26", png(0))
    assert (refused.status, refused.json["error"]["position"]) == (422, len("leaf &"))
    assert page.get("/models/small/subset?among=all&view=top").code == "bad_parameter"
    assert page.get("/models/small/subset").code == "bad_parameter"


def test_no_file_can_be_read(page):
    for path in (
        "/assets/../app.py",
        "/assets/..%2fapp.py",
        "/assets/%2e%2e/%2e%2e/models.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/etc/passwd",
        "/..%5c..%5cetc",
        "/assets/index.html%00.css",
        "/models/..%2f..%2fsmall/tree",
        "/results/..%2f..%2fetc/answers",
        "/synsets/..%2f..",
    ):
        assert page.get(path).status == 404, path
    assert page.send("PUT", "/predict", png(0)).code == "method_not_allowed"
    assert page.send("DELETE", "/models").status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("192.168.0.7", 200),
        ("Pictures.Example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[", 421),
        ("user@evil.example:80", 421),
    ],
)
def test_host_names_of_others_are_refused(models, host, status):
    with serving(models, host_names=("pictures.example",)) as page:
        assert page.get("/models", Host=host).status == status


def test_pages_of_other_sites_are_refused(page):
    own = {"Origin": page.address}
    assert page.send("POST", "/predict", png(0), own).status == 200
    for origin in ("https://evil.example", "null", "http://localhost:1", "http://["):
        reply = page.send("POST", "/predict", png(0), {"Origin": origin})
        assert (reply.status, reply.code) == (403, "other_origin")
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert page.send("GET", "/models/small/subset?among=all", headers=image).status == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert page.send("GET", "/", headers=link).status == 200


def test_every_response_has_the_security_headers(page):
    for path in ("/", "/assets/look.css", "/models", "/nothing", "/healthz"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_openapi_describes_every_route(models, page):
    described = page.get("/openapi.json").json
    routes = {
        (route.path, method.lower())
        for route in application.App(models, Limits()).routes()
        for method in route.methods - {"HEAD"}
    }
    routes = {(path.replace(":int}", "}"), method) for path, method in routes}
    assert routes - {("/", "get"), ("/assets/{name}", "get")} == {
        (path, method) for path, methods in described["paths"].items() for method in methods
    }
    text = json.dumps(described)
    used = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert used == set(described["components"]["schemas"])
    for path, methods in described["paths"].items():
        (operation,) = methods.values()
        names = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert names == set(re.findall(r"\{(\w+)\}", path))
    assert described == openapi.document(["small"], Limits(max_bytes=1 << 20))


def has_shape(value, schema, schemas) -> None:
    """Check a value against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
    kinds["number"] = (int, float)
    allowed = schema.get("type", [])
    allowed = [allowed] if isinstance(allowed, str) else allowed
    assert not allowed or any(isinstance(value, kinds[kind]) for kind in allowed), (value, schema)
    assert "enum" not in schema or value in schema["enum"]
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), value.keys()
        for key, part in value.items():
            has_shape(part, schema["properties"][key], schemas)
    if isinstance(value, list):
        for part in value:
            has_shape(part, schema["items"], schemas)


def test_responses_have_the_shapes_that_openapi_describes(page):
    described = page.get("/openapi.json").json
    schemas = described["components"]["schemas"]
    result = page.send("POST", "/predict", png(0)).json
    has_shape(result, schemas["Answers"], schemas)
    has_shape(page.get("/models").json, schemas["Models"], schemas)
    has_shape(page.get("/models/small/tree").json, schemas["Tree"], schemas)
    has_shape(page.get("/models/small/subset?among=all").json, schemas["Subset"], schemas)
    has_shape(page.get("/synsets/n01440764").json, schemas["Synset"], schemas)
    has_shape(page.get("/healthz").json, schemas["Health"], schemas)
    has_shape(page.get("/models/small/subset?among=!").json, schemas["Subset"], schemas)
    has_shape(page.get("/models/none/tree").json, schemas["Error"], schemas)


def test_the_nearest_images_are_those_of_a_search(models, dataset):
    predictor = models["small"].predictor
    features = embed(predictor.trained, dataset, "val", dtype="float16")
    expected = search(features, predictor.trained, png(1), 3)
    with serving(served([predictor], 1, [features])) as page:
        result = page.send("POST", "/predict", png(1)).json["id"]
        found = page.get(f"/results/{result}/nearest?k=3").json
        schemas = page.get("/openapi.json").json["components"]["schemas"]
        has_shape(found, schemas["Nearest"], schemas)
        assert [one["number"] for one in found["nearest"]] == [one.row for one in expected]
        assert [one["class"]["id"] for one in found["nearest"]] == [e.class_id for e in expected]
        assert all("/" not in one["file"] for one in found["nearest"])
        reply = page.get(f"/models/small/images/{expected[0].row}")
        assert reply.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(reply.body)) as small:
            assert small.size == (48, 40)
        for number in ("21", "-1", "1e1", "../0", "999999999999", "9" * 5000):
            assert page.get(f"/models/small/images/{number}").status == 404, number
        assert page.get(f"/results/{result}/nearest?k=0").code == "bad_parameter"


def test_without_features_nothing_is_searched(page):
    result = page.send("POST", "/predict", png(1)).json["id"]
    assert page.get(f"/results/{result}/nearest").code == "no_features"
    assert page.get("/models/small/images/0").status == 404


def test_old_results_are_dropped(models):
    with serving(models, results=2) as page:
        ids = [page.send("POST", "/predict", png(0, seed)).json["id"] for seed in range(3)]
        statuses = [page.get(f"/results/{one}/answers").status for one in ids]
        assert statuses == [404, 200, 200] and len(set(ids)) == 3
        assert page.get(f"/results/{ids[0]}/answers").code == "unknown_result"


def test_models_have_names_of_their_own(models):
    predictor = models["small"].predictor
    assert list(served([predictor, predictor], 1)) == ["small", "small (2)"]


def test_an_onnx_model_is_served_beside_a_checkpoint(models, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    predictor = models["small"].predictor
    export.export(predictor.trained, tmp_path / "exported")
    both = served([predictor, Predictor(tmp_path / "exported")], 2)
    with serving(both) as page:
        assert [model["name"] for model in page.get("/models").json["models"]] == list(both)
        assert list(both) == ["small", "exported"]
        first, second = (page.send("POST", f"/predict?model={name}", png(3)).json for name in both)
        assert [a["id"] for a in first["answers"]] == [a["id"] for a in second["answers"]]
        # Only the checkpoint is calibrated.
        raw = Predictor(tmp_path / "exported").probabilities([png(3)])
        assert second["answers"][0]["probability"] == pytest.approx(raw.max(), rel=1e-3)
        assert first["answers"][0]["probability"] == pytest.approx(
            predictor.calibrated(raw).max(), rel=1e-3
        )


def test_a_model_of_independent_classes_has_the_view_top(few_blocks, tmp_path):
    predictor = Predictor(save_random_model(tmp_path / "many", probability="sigmoid"))
    models = served([predictor], 1)
    models["many"].warm_up()
    with serving(models) as page:
        found = page.send("POST", "/predict", png(0)).json
        close_to(found["answers"], predictor.predict(png(0)))
        assert page.send("POST", "/predict?view=basic", png(0)).code == "view_unusable"
        assert page.get("/models/many/subset?among=all").code == "view_unusable"
        views = page.get("/models").json["models"][0]["views"]
        assert [name for name, view in views.items() if view["unusable"] is None] == ["top"]
