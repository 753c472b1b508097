import json

import jax
import numpy as np
import optax
import pytest

from i21k import cli
from i21k.evaluation.evaluate import evaluate_checkpoint
from i21k.interop.mxnet import convert
from i21k.interop.mxnet.params import read_params
from i21k.labels import ClassList
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.train import loop
from i21k.train.state import init_state
from i21k.trained import load_checkpoint
from tests.helpers.datasets import CLASSES, NUM_VAL

ORDER = ClassList(tuple(reversed(CLASSES.ids)))  # as in 2015: not sorted


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Three files of a narrow network with random values, as MXNet would have written them."""
    model = InceptionBN(num_classes=4, variant="standard", revision="released", width=0.125)
    state = init_state(InceptionNetwork(model), optax.sgd(0.1), 64, "he_normal", 5)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), state.batch_stats
    )
    variables = {"params": state.params, "batch_stats": stats}
    directory = tmp_path_factory.mktemp("release")
    return (
        model,
        variables,
        convert.write_model(directory, model, variables, ORDER, epoch=9, layout="2015"),
    )


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_import_evaluate_export(release, dataset, tmp_path, capsys):
    model, variables, (symbol, params, synset) = release
    assert (
        run(
            "import-mxnet",
            "--symbol",
            symbol,
            "--params",
            params,
            "--synset",
            synset,
            "--out",
            tmp_path / "w",
            "--json",
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["variant"], report["revision"], report["num_classes"]) == (
        "standard",
        "released",
        4,
    )
    assert report["provenance"]["files"]["params"]["name"] == "Inception-0009.params"

    loaded = load_checkpoint(tmp_path / "w")
    assert loaded.classes == CLASSES and loaded.image_size == 224
    images = np.random.default_rng(1).uniform(-117, 138, (2, 64, 64, 3)).astype(np.float32)
    apply = jax.jit(lambda m, v, x: m.apply(v, x), static_argnums=0)
    np.testing.assert_allclose(
        apply(loaded.network.module, loaded.variables, images),
        apply(model, variables, images)[:, ::-1],
        rtol=1e-5,
        atol=1e-5,
    )

    result = evaluate_checkpoint(tmp_path / "w", dataset, batch_size=8).summary()
    assert result["count"] == NUM_VAL and result["table"]["all"]["top5"] == 1

    assert (
        run(
            "export",
            "--format",
            "mxnet",
            "--checkpoint",
            tmp_path / "w",
            "--out",
            tmp_path / "back",
            "--order",
            synset,
            "--layout",
            "2015",
        )
        == 0
    )
    rows = json.loads((tmp_path / "back" / "classes.json").read_text())
    assert tuple(row["id"] for row in rows) == ORDER.ids
    before, after = read_params(params), read_params(tmp_path / "back" / "Inception-0000.params")
    assert before.keys() == after.keys() and all(
        np.array_equal(before[name], after[name]) for name in before
    )
    assert ClassList.read(tmp_path / "back" / "synset.txt") == ORDER
    assert json.loads((tmp_path / "back" / "Inception-symbol.json").read_text()) == json.loads(
        symbol.read_text()
    )


def test_the_count_of_padding_is_a_flag(release, tmp_path, capsys):
    _, _, (symbol, params, synset) = release
    for flag, expected in (
        ("--count-padding", True),
        ("--no-count-padding", None),
    ):  # None: as the revision does
        assert (
            run(
                "import-mxnet",
                "--symbol",
                symbol,
                "--params",
                params,
                "--synset",
                synset,
                "--out",
                tmp_path / flag,
                flag,
            )
            == 0
        )
        assert load_checkpoint(tmp_path / flag).network.module.count_padding is expected


def test_nothing_is_overwritten_and_nothing_is_left_after_an_error(
    release, recipe, tmp_path, capsys
):
    _, _, (symbol, params, synset) = release
    files = ("--symbol", symbol, "--params", params, "--synset", synset)
    assert run("import-mxnet", *files, "--out", tmp_path / "w") == 0
    assert run("import-mxnet", *files, "--out", tmp_path / "w") == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    arguments = ("--checkpoint", tmp_path / "w", "--format", "mxnet", "--out", symbol.parent)
    assert run("export", *arguments) == 2
    assert "is not empty. Choose another --out" in capsys.readouterr().err
    (tmp_path / "short.txt").write_text("n01440764\n")
    assert (
        run(
            "import-mxnet",
            "--symbol",
            symbol,
            "--params",
            params,
            "--synset",
            tmp_path / "short.txt",
            "--out",
            tmp_path / "x",
        )
        == 2
    )
    assert "has 1 classes" in capsys.readouterr().err and not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="holds an imported model, which is not a run"):
        loop.run(recipe, tmp_path / "w")
