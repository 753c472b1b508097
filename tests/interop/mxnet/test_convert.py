"""Names, layouts and the order of classes, and the three files of a model together."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from i21k.interop.mxnet.convert import (
    mxnet_from_variables,
    read_model,
    variables_from_mxnet,
    write_model,
)
from i21k.interop.mxnet.graph import Operator, operators
from i21k.interop.mxnet.params import read_params, write_params
from i21k.labels import ClassList
from i21k.models.inception_bn import REVISIONS, InceptionBN
from tests.helpers.mxnet import (
    LAYOUTS,
    RELEASE_1K,
    WIDTH,
    arrays_of,
    graph_of_2015,
    narrow,
    same,
    write_graph,
)


@pytest.mark.parametrize("variant", ["full", "standard"])
@pytest.mark.parametrize("prefixed", [False, True])
def test_variables_come_back_as_mxnet_names_them(variant, prefixed):
    model = narrow(variant=variant)
    arrays = arrays_of(model)
    given_arrays = (
        {f"{'aux' if 'moving' in name else 'arg'}:{name}": array for name, array in arrays.items()}
        if prefixed
        else arrays
    )
    variables = variables_from_mxnet(given_arrays, width=WIDTH)
    back = mxnet_from_variables(variables)
    assert same({name: back[name] for name in arrays}, arrays) and len(back) == len(arrays) == 416
    expected = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )
    kernel = variables["params"]["conv_3a_3x3"]["kernel"]
    assert kernel[0, 2, 3, 4] == arrays["conv_3a_3x3_weight"][4, 3, 0, 2]
    assert variables["params"]["fc1"]["kernel"][7, 3] == arrays["fc1_weight"][3, 7]


def test_variables_take_the_names_of_the_1000_class_release():
    arrays = arrays_of(narrow(variant="standard"))
    renamed = {}
    for name, array in arrays.items():
        layer = next((layer for layer in RELEASE_1K if name.startswith(f"{layer}_")), "")
        renamed[RELEASE_1K.get(layer, "") + name.removeprefix(layer)] = array
    assert (
        "conv_2_reduce_weight" in renamed
        and "bn_2_1_moving_var" in renamed
        and "fc_bias" in renamed
    )
    want, got = (
        variables_from_mxnet(arrays, width=WIDTH),
        variables_from_mxnet(renamed, width=WIDTH),
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), want, got))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("bn_4c_proj_moving_mean"),
            r"variant 'full': 1 missing: bn_4c_proj_moving_mean$",
        ),
        (lambda a: a.update(stranger=np.ones(3)), r"1 extra: stranger$"),
        (
            lambda a: a.update(conv_5a_1x1_bias=np.ones(3)),
            r"1 of another shape: conv_5a_1x1_bias \(3,\), expected \(48,\)$",
        ),
        (lambda a: a.clear(), r"416 missing: conv_conv1_weight; .*; \.\.\."),
        (
            lambda a: a.update({"aux:fc1_bias": a.pop("fc1_bias")}),
            "'aux:fc1_bias' has the prefix 'aux'; expected",
        ),
        (lambda a: a.update({"arg:fc1_bias": a["fc1_bias"]}), "'arg:fc1_bias' occurs twice"),
        (
            lambda a: a.update(fc1_bias=np.full(5, 1e300)),
            "'fc1_bias' holds values that are not finite in float32",
        ),
        (
            lambda a: a["bn_conv1_moving_var"].__setitem__(0, -1),
            r"'bn_conv1_moving_var' holds a negative variance \(-1.0\)",
        ),
    ],
)
def test_variables_name_what_is_wrong(change, message):
    arrays = arrays_of(narrow())
    change(arrays)
    with pytest.raises(ValueError, match=message):
        variables_from_mxnet(arrays, "full", WIDTH)


ORDER = ClassList(("n00000004", "n00000001", "n00000005", "n00000002", "n00000003"))


def write_release(
    directory: Path, model: InceptionBN, arrays: dict[str, np.ndarray], layout: str = "2015"
) -> tuple[Path, Path, Path]:
    """Write files as of 2015, arrays in no particular order."""
    graph = graph_of_2015(model)
    graph["nodes"][0]["param"] = {} if model.width == 1 else {"__i21k_width__": repr(model.width)}
    names = sorted(arrays, key=lambda name: hash(name) % 97)
    write_params(
        directory / "x.params",
        {f"{'aux' if 'moving' in name else 'arg'}:{name}": arrays[name] for name in names},
        layout,
    )
    (directory / "synset.txt").write_text("".join(f"{wnid} some, names\n" for wnid in ORDER.ids))
    return (
        write_graph(directory / "x.json", graph),
        directory / "x.params",
        directory / "synset.txt",
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_model_is_read_in_sorted_order(tmp_path, layout):
    arrays = arrays_of(narrow())
    got = read_model(*write_release(tmp_path, narrow(), arrays, layout))
    assert got.model == narrow()
    assert got.classes == ClassList.sorted(ORDER.ids)
    for k, wnid in enumerate(got.classes.ids):
        row = ORDER.ids.index(wnid)
        assert (got.variables["params"]["fc1"]["kernel"][:, k] == arrays["fc1_weight"][row]).all()
        assert got.variables["params"]["fc1"]["bias"][k] == arrays["fc1_bias"][row]
    assert json.loads(json.dumps(got.provenance)) == got.provenance
    assert got.provenance["label_order"] == {"sha256": ORDER.hash, "sorted": False}
    assert {role: file["name"] for role, file in got.provenance["files"].items()} == {
        "symbol": "x.json", "params": "x.params", "synset": "synset.txt"
    }  # fmt: skip
    assert got.provenance["files"]["params"]["bytes"] == (tmp_path / "x.params").stat().st_size


def test_model_takes_the_count_of_padding_from_the_caller(tmp_path):
    files = write_release(tmp_path, narrow(), arrays_of(narrow()))
    assert read_model(*files, count_padding=True).model == narrow(count_padding=True)
    assert read_model(*files, count_padding=False).model == narrow()


@pytest.mark.parametrize("revision", REVISIONS)
def test_model_goes_out_and_comes_back(tmp_path, revision):
    model = narrow(revision=revision, variant="standard")
    classes = ClassList.sorted(ORDER.ids)
    variables = variables_from_mxnet(arrays_of(model), "standard", WIDTH)
    paths = write_model(tmp_path / "out", model, variables, classes, order=ORDER, epoch=9)
    assert [path.name for path in paths] == [
        "Inception-symbol.json",
        "Inception-0009.params",
        "synset.txt",
    ]
    assert ClassList.read(paths[2]) == ORDER
    stored = read_params(paths[1])
    assert (
        stored["arg:fc1_bias"][0]
        == variables["params"]["fc1"]["bias"][classes.label_of["n00000004"]]
    ) and "aux:bn_conv1_moving_var" in stored
    got = read_model(*paths)
    assert got.model == model and got.classes == classes
    if revision == "symbol2016":  # what MXNet computes with
        assert all(
            (leaves["gamma"] == 1).all()
            for layer, leaves in got.variables["params"].items()
            if layer.startswith("bn_")
        )
        for layer, leaves in got.variables["params"].items():
            if layer.startswith("bn_"):
                leaves["gamma"] = variables["params"][layer]["gamma"]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got.variables, variables))


def test_model_names_files_that_do_not_belong_together(tmp_path):
    symbol, params, synset = write_release(tmp_path, narrow(), arrays_of(narrow()))
    other = write_graph(tmp_path / "other.json", graph_of_2015(InceptionBN(num_classes=5)))
    with pytest.raises(
        ValueError,
        match=r"x.params: the arrays are not those of variant 'full': 4\d\d of another shape: ",
    ):
        read_model(other, params, synset)
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(
        ValueError, match=r"short\.txt has 2 classes and .*x\.json 5\. Give the files of one model"
    ):
        read_model(symbol, params, tmp_path / "short.txt")
    write_params(params, arrays_of(narrow(num_classes=6)))
    with pytest.raises(ValueError, match=r"x\.params: fc1 has 6 classes, .*x\.json 5"):
        read_model(symbol, params, synset)
    with (tmp_path / "long.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"long\.txt has 1,099,511,627,776 bytes"):
        read_model(symbol, params, tmp_path / "long.txt")


def test_model_that_does_not_fit_its_classes_is_not_written(tmp_path):
    model = narrow()
    variables = variables_from_mxnet(arrays_of(model), "full", WIDTH)
    with pytest.raises(ValueError, match="fc1 has 5 outputs, the class list 2"):
        write_model(tmp_path, model, variables, ClassList(("a", "b")))
    with pytest.raises(ValueError, match="the order is of other classes"):
        write_model(tmp_path, model, variables, ORDER, order=ClassList(("a", "b")))
    with pytest.raises(
        ValueError, match="the arrays are not those of 'full' with these settings: 4"
    ):
        write_model(tmp_path, InceptionBN(num_classes=5), variables, ORDER)
    assert not list(tmp_path.iterdir())


def test_operators_follow_their_inputs():
    seen = {"data"}
    for operator in operators(InceptionBN()):
        assert isinstance(operator, Operator) and seen.issuperset(operator.inputs)
        seen.add(operator.name)
