"""Graphs in `symbol.json`: recognised, refused, and written."""

import copy
import gzip
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from i21k.interop.mxnet.read_symbol import read_symbol
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.models.inception_bn import InceptionBN
from tests.helpers.mxnet import (
    RELEASE_1K,
    graph_of_2015,
    write_graph,
)
from tests.helpers.paths import GOLDEN


@pytest.mark.parametrize("loss", ["Softmax", "SoftmaxOutput"])
def test_symbol_of_the_release_is_recognised(tmp_path, loss):
    path = write_graph(tmp_path / "Inception-symbol.json", graph_of_2015(InceptionBN(), loss=loss))
    assert read_symbol(path) == InceptionBN(num_classes=21841, variant="full", revision="released")


def test_symbol_of_the_1000_class_release_is_recognised(tmp_path):
    model = InceptionBN(num_classes=1000, variant="standard", revision="released")
    graph = graph_of_2015(model, RELEASE_1K)
    assert graph["nodes"][3]["name"] == "conv_1" and len(graph["nodes"]) == 513
    assert read_symbol(write_graph(tmp_path / "x.json", graph)) == model


def test_symbol_of_2016_with_fixed_gamma_is_recognised(tmp_path):
    graph = graph_of_2015(InceptionBN(revision="symbol2016"))
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            node["param"]["fix_gamma"] = "True"
    assert read_symbol(write_graph(tmp_path / "x.json", graph)) == InceptionBN(
        revision="symbol2016"
    )


@pytest.mark.parametrize(
    ("variant", "revision"), [("full", "released"), ("standard", "symbol2016")]
)
@pytest.mark.parametrize("key", ["attr", "attrs"])
def test_symbol_written_by_mxnet_is_recognised(tmp_path, variant, revision, key):
    text = gzip.decompress((GOLDEN / f"{variant}_{revision}-symbol.json.gz").read_bytes()).decode()
    path = tmp_path / "x.json"
    path.write_text(
        text.replace('"attrs": {\n        ', f'"{key}": {{\n        ')
    )  # MXNet 0.9 to 0.11 wrote `attr`
    model = read_symbol(path)
    # That graph has MXNet's momentum of 0.9, which the release did not have.
    momentum = 0.9 if revision == "released" else None
    assert model == InceptionBN(
        num_classes=21841 if variant == "full" else 1000,
        variant=variant,
        revision=revision,
        bn_momentum=momentum,
    )


@pytest.mark.parametrize(
    "model",
    [
        InceptionBN(),
        InceptionBN(num_classes=1000, variant="standard", revision="symbol2016"),
        InceptionBN(num_classes=3, width=0.25, bn_momentum=0.5, count_padding=True),
        InceptionBN(num_classes=3, revision="symbol2016", count_padding=False),
    ],
)
def test_symbol_comes_back(tmp_path, model):
    write_symbol(tmp_path / "x.json", model)
    assert read_symbol(tmp_path / "x.json") == model


def node_of(graph, name):
    return next(node for node in graph["nodes"] if node["name"] == name)


def attribute(name, key, value):
    def change(graph):
        node_of(graph, name)["param"][key] = value

    return change


def every_batch_norm(**param):
    def change(graph):
        for node in graph["nodes"]:
            if node["op"] == "BatchNorm":
                node["param"] |= param

    return change


def rewire(name, source):
    def change(graph):
        node_of(graph, name)["inputs"][0][0] = next(
            k for k, node in enumerate(graph["nodes"]) if node["name"] == source
        )

    return change


def swap_branches(graph):
    inputs = node_of(graph, "ch_concat_3a_chconcat")["inputs"]
    inputs[0], inputs[1] = inputs[1], inputs[0]


def rename(old, new):
    def change(graph):
        node_of(graph, old)["name"] = new

    return change


def append_relu(graph):
    graph["nodes"].append(
        {
            "op": "Activation",
            "param": {"act_type": "relu"},
            "name": "more",
            "inputs": [[0, 0]],
            "backward_source_id": -1,
        }
    )


DIFFERENCES = {
    "filters": (
        attribute("conv_4d_3x3", "num_filter", "7"),
        r"'conv_4d_3x3': num_filter is 7; expected 192 \(closest to .*'full'",
    ),
    "kernel": (
        attribute("conv_4d_3x3", "kernel", "(5, 5)"),
        r"'conv_4d_3x3': kernel is \(5, 5\); expected \(3, 3\)",
    ),
    "stride": (attribute("pool2", "stride", "(1, 1)"), r"Pooling 'pool2': stride is \(1, 1\)"),
    "padding": (
        attribute("max_pool_4e_pool", "pad", "(1, 1)"),
        r"'max_pool_4e_pool': pad is \(1, 1\); expected \(0, 0\)",
    ),
    "groups": (
        attribute("conv_3b_3x3", "num_group", "2"),
        "'conv_3b_3x3': num_group is 2; expected 1",
    ),
    "no bias": (
        attribute("conv_3b_3x3", "no_bias", "True"),
        "'conv_3b_3x3': no_bias is True; expected False",
    ),
    "pool": (
        attribute("max_pool_5b_pool", "pool_type", "avg"),
        "'max_pool_5b_pool': pool_type is avg; expected max",
    ),
    "activation": (
        attribute("relu_conv1", "act_type", "tanh"),
        "'relu_conv1': act_type is tanh; expected relu",
    ),
    "one epsilon": (
        attribute("bn_5a_proj", "eps", "0.001"),
        "BatchNorm 'bn_5a_proj': eps is 0.001; expected 1e-10",
    ),
    "every epsilon": (
        every_batch_norm(eps="1e-05"),
        r"no revision has: ceil pools with padding \(0, 0\) in 3c, eps 1e-05, gamma learned\. "
        r"'released' has ceil .* eps 1e-10",
    ),
    "every gamma": (
        every_batch_norm(fix_gamma="True"),
        "mix of settings .* eps 1e-10, gamma fixed",
    ),
    "momentum": (every_batch_norm(momentum="7"), "bn_conv1: momentum is 7.0; expected 0 to 1"),
    "NaN": (every_batch_norm(eps="nan"), "mix of settings"),
    "classes": (attribute("fc1", "num_hidden", "0"), "fc1: num_hidden is 0"),
    "order": (
        swap_branches,
        "Concat 'ch_concat_3a_chconcat' takes relu_3a_3x3, relu_3a_1x1, relu_3a_double_3x3_1, "
        "relu_3a_proj; expected",
    ),
    "source": (
        rewire("conv_5b_proj", "relu_5b_1x1"),
        "'conv_5b_proj' takes relu_5b_1x1; expected max_pool_5b_pool",
    ),
    "missing": (rename("relu_4c_1x1", "act"), "Activation 'relu_4c_1x1' is missing"),
    "no layers": (rename("bn_conv1", "x"), "there is no layer 'bn_conv1' with 'eps'"),
    "one too many": (append_relu, "operator 'more' is one too many"),
    "variable": (
        rename("conv_4a_1x1_bias", "bias"),
        "'conv_4a_1x1' has parameters conv_4a_1x1_weight, bias; expected",
    ),
    "operator": (
        lambda g: node_of(g, "relu_3a_1x1").update(op="Dropout"),
        r"node \d+ \('relu_3a_1x1'\): operator 'Dropout' is in none",
    ),
    "kind": (
        lambda g: node_of(g, "relu_3a_1x1").update(op="Flatten", param={}),
        "Activation 'relu_3a_1x1' is a Flatten",
    ),
    "unknown attribute": (
        attribute("conv_4d_3x3", "deformable", "1"),
        "Convolution with deformable='1' is in none of our networks",
    ),
    "no number": (
        attribute("conv_4d_3x3", "num_filter", "many"),
        "num_filter is 'many'; expected a int",
    ),
    "no shape": (
        attribute("conv_4d_3x3", "kernel", "(3; 3)"),
        r"kernel is '\(3; 3\)'; expected a tuple",
    ),
    "no truth": (
        attribute("conv_4d_3x3", "no_bias", "maybe"),
        "no_bias is 'maybe'; expected a bool",
    ),
    "no text": (attribute("conv_4d_3x3", "no_bias", 1), "no_bias is 1; expected a string"),
    "twice": (rename("relu_3a_1x1", "data"), "name 'data' occurs twice"),
    "aliased twice": (rename("relu_3a_1x1", "fc"), "name 'fc1?' occurs twice"),
    "cycle": (
        lambda g: node_of(g, "conv_conv1")["inputs"][0].__setitem__(0, 400),
        "expected the first output of a node before it",
    ),
    "negative input": (
        lambda g: node_of(g, "conv_conv1")["inputs"][0].__setitem__(0, -1),
        "expected the first output of a node before it",
    ),
    "other input": (
        lambda g: node_of(g, "conv_conv1")["inputs"].__setitem__(0, "x"),
        r"expected \[node, output\]",
    ),
    "heads": (lambda g: g["heads"].append([0, 0]), "the graph has 2 heads"),
    "head": (
        lambda g: g["heads"].__setitem__(0, [len(g["nodes"]) - 2, 0]),
        "the head is 'softmax_label'; expected the softmax",
    ),
    "no nodes": (lambda g: g.pop("nodes"), "the graph: 'nodes' is None; expected a list"),
    "node": (lambda g: g["nodes"].__setitem__(3, []), "node 3: 'op' is None; expected a str"),
}


@pytest.mark.parametrize(("change", "message"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_symbol_names_the_first_difference(tmp_path, change, message):
    graph = graph_of_2015(InceptionBN())
    change(graph)
    path = write_graph(tmp_path / "x.json", graph)
    with pytest.raises(ValueError, match=rf"x\.json: .*{message}"):
        read_symbol(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 500_000, "x.json: is nested too deeply"),
        (b'{"a":' * 100_000, "x.json: is nested too deeply"),
        (b" " * (1 << 20) + b"{}", "x.json: is longer than 1,048,576 bytes"),
        (b'{"nodes": [' + b"9" * 10_000 + b"]}", "x.json: is not JSON"),
        (b"\xff\xfe{}", "x.json: is not JSON .*utf-8"),
        (b'{"nodes": ', r"x.json: is not JSON \(.*line 1 column"),
        (b"[]", "x.json: the graph: 'nodes' is None"),
        (b"17", "x.json: the graph: 'nodes' is None"),
        (
            b'{"nodes": [], "heads": [[0, 0]]}',
            "x.json: the head: input a list; expected the first output",
        ),
        (b'{"nodes": [' + b"[]," * 300_000 + b"[]]}", "x.json: node 0: 'op' is None"),
    ],
)
def test_json_bombs_are_refused(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_symbol(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_symbol_that_is_absent_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json: cannot be read"):
        read_symbol(tmp_path / "absent.json")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["(3, 3)", "9" * 50, "inf", "None"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_symbol_damaged_anywhere_is_read_or_refused(tmp_path, data):
    graph = copy.deepcopy(GRAPH)
    place, key = graph, "nodes"
    while (
        isinstance(place[key], dict | list)
        and place[key]
        and data.draw(st.booleans() if place is not graph else st.just(True))
    ):
        place = place[key]
        key = data.draw(
            st.sampled_from(sorted(place))
            if isinstance(place, dict)
            else st.integers(0, len(place) - 1)
        )
    place[key] = data.draw(JSON)
    path = write_graph(tmp_path / "x.json", graph)
    try:
        read_symbol(path)
    except ValueError as error:
        assert "x.json: " in str(error) and len(str(error)) < 2000


GRAPH = graph_of_2015(InceptionBN(variant="standard", num_classes=1000), RELEASE_1K)


@settings(
    max_examples=50, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
@example(b"{}")
@example(
    b'{"nodes": [{"op": "null", "name": "data", "inputs": [], "attrs": {"__i21k_width__": "1e9"}}],'
    b' "heads": [[0, 0]]}'
)
def test_symbol_of_any_bytes_is_refused(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.json: "):
        read_symbol(tmp_path / "x.json")
