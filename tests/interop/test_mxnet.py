import copy
import gzip
import json
import os
import struct
import subprocess
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from i21k.interop.mxnet.convert import (
    mxnet_from_variables,
    read_model,
    variables_from_mxnet,
    write_model,
)
from i21k.interop.mxnet.graph import Operator, operators, parameter_shapes
from i21k.interop.mxnet.params import read_params, write_params
from i21k.interop.mxnet.read_symbol import read_symbol
from i21k.interop.mxnet.write_symbol import write_symbol
from i21k.labels import ClassList
from i21k.models.inception_bn import MEAN, REVISIONS, InceptionBN
from tests.golden.make_golden import images, parameter
from tests.helpers.paths import GOLDEN

LAYOUTS = ("2015", "V1", "V2", "V3")
ARRAYS = {
    "arg:a": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "aux:b": np.array([1.5, -2, 3]),
    "c": np.array([[0.5]], np.float16),
}
# ARRAYS as `mx.nd.save` of MXNet 1.9.1 writes them.
BY_MXNET = bytes.fromhex(
    "12010000000000000000000000000000 0300000000000000"
    "c9fa93f9000000000200000002000000000000000300000000000000 010000000000000000000000"
    "000000000000803e0000003f0000403f0000803f0000a03f"
    "c9fa93f900000000010000000300000000000000 010000000000000001000000"
    "000000000000f83f00000000000000c00000000000000840"
    "c9fa93f9000000000200000001000000000000000100000000000000 010000000000000002000000 0038"
    "0300000000000000 0500000000000000 6172673a61 0500000000000000 6175783a62 0100000000000000 63"
)


def same(got, want) -> bool:
    return list(got) == list(want) and all(
        got[n].dtype == want[n].dtype
        and got[n].shape == want[n].shape
        and (got[n] == want[n]).all()
        for n in want
    )


# The .params format


@pytest.mark.parametrize("layout", LAYOUTS)
def test_params_come_back(tmp_path, layout):
    write_params(tmp_path / "x.params", ARRAYS, layout)
    assert same(read_params(tmp_path / "x.params"), ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.params"]


def test_params_equal_those_of_mxnet(tmp_path):
    (tmp_path / "x.params").write_bytes(BY_MXNET)
    assert same(read_params(tmp_path / "x.params"), ARRAYS)
    write_params(tmp_path / "y.params", ARRAYS)
    assert (tmp_path / "y.params").read_bytes() == BY_MXNET
    (tmp_path / "x.params").write_bytes(
        BY_MXNET.replace(struct.pack("<I", 0xF993FAC9), struct.pack("<I", 0xF993FACA))
    )
    write_params(tmp_path / "y.params", ARRAYS, "V3")
    assert (tmp_path / "y.params").read_bytes() == (tmp_path / "x.params").read_bytes()


def test_params_in_the_layout_of_2015(tmp_path):
    array = (
        struct.pack("<3I", 2, 1, 2) + struct.pack("<3i", 2, 1, 0) + struct.pack("<2f", 0.5, -1)
    )  # saved from the second GPU
    data = struct.pack("<3Q", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 5) + b"arg:x"
    (tmp_path / "x.params").write_bytes(data)
    assert same(read_params(tmp_path / "x.params"), {"arg:x": np.array([[0.5, -1]], np.float32)})
    write_params(tmp_path / "y.params", {"arg:x": np.array([[0.5, -1]], np.float32)}, "2015")
    assert (tmp_path / "y.params").read_bytes() == data.replace(
        struct.pack("<3i", 2, 1, 0), struct.pack("<3i", 1, 0, 0)
    )


def params_file(
    *,
    magic=0x112,
    reserved=0,
    count=1,
    header=None,
    data=b"\0\0\x80?",
    num_names=1,
    length=1,
    name=b"x",
    shape=(1,),
    flag=0,
    device=1,
    end=b"",
) -> bytes:
    """A file of one array in the layout of 2015, anything in it as the test wants it."""
    header = struct.pack(f"<I{len(shape)}I", len(shape), *shape) if header is None else header
    array = header + struct.pack("<3i", device, 0, flag) + data
    return (
        struct.pack("<3Q", magic, reserved, count)
        + array
        + struct.pack("<QQ", num_names, length)
        + name
        + end
    )


V2 = struct.pack("<I", 0xF993FAC9)
HOSTILE = {
    "other magic": (params_file(magic=0x113), "byte 0: the file begins with 0x113"),
    "reserved": (params_file(reserved=1), "byte 0: the file begins with 0x112 and 0x1"),
    "empty": (b"", "byte 0: the file's header needs 16 bytes, the file has 0 left"),
    "2**63 arrays": (
        params_file(count=2**63),
        "byte 16: 9,223,372,036,854,775,808 arrays; expected at most 10,000",
    ),
    "9,999 arrays": (params_file(count=9999), "byte 16: 9,999 arrays do not fit in the"),
    "no dimension": (params_file(shape=()), "byte 24: array 0 of 1 has 0 dimensions"),
    "9 dimensions": (params_file(shape=(1,) * 9), "byte 24: array 0 of 1 has 9 dimensions"),
    "2**31 dimensions": (
        params_file(header=struct.pack("<I", 2**31)),
        "byte 24: array 0 of 1 has 2,147,483,648 dimensions",
    ),
    "negative ndim": (
        params_file(header=V2 + struct.pack("<ii", 0, -1)),
        "byte 24: array 0 of 1 has -1 dimensions",
    ),
    "empty shape": (params_file(shape=(0, 5)), r"byte 24: array 0 of 1 has shape \(0, 5\)"),
    "negative shape": (
        params_file(header=V2 + struct.pack("<iiqq", 0, 2, -1, -4)),
        r"byte 24: array 0 of 1 has shape \(-1, -4\)",
    ),
    "2**40 elements": (
        params_file(shape=(2**20, 2**20)),
        "byte 24: array 0 of 1 of shape .* needs 4,398,046,511,104 bytes",
    ),
    "overflow": (
        params_file(header=V2 + struct.pack("<iiqq", 0, 2, 2**32, 2**32)),
        "byte 24: array 0 of 1 of shape .* needs 73,786,976,294",
    ),
    "sparse": (
        params_file(header=V2 + struct.pack("<iiq", 1, 1, 1)),
        "byte 28: array 0 of 1 has storage type 1",
    ),
    "device": (params_file(device=9), "byte 32: array 0 of 1 has device type 9"),
    "integers": (params_file(flag=4), "byte 40: array 0 of 1 has type flag 4"),
    "NaN": (params_file(data=struct.pack("<f", np.nan)), r"byte 24: array 'x' holds nan at \[0\]"),
    "infinite": (
        params_file(shape=(2,), data=struct.pack("<2f", 1, np.inf)),
        r"byte 24: array 'x' holds inf at \[1\]",
    ),
    "no names": (params_file(num_names=0), "byte 48: 0 names for 1 arrays"),
    "name of 2**40": (
        params_file(length=2**40),
        "byte 56: name 0 of 1 has 1,099,511,627,776 bytes; expected 1 to 1,024",
    ),
    "empty name": (params_file(length=0), "byte 56: name 0 of 1 has 0 bytes"),
    "cut name": (params_file(length=9), "byte 64: name 0 of 1 needs 9 bytes, the file has 1 left"),
    "not UTF-8": (params_file(name=b"\xff"), "byte 56: name 0 of 1 is not UTF-8"),
    "left over": (params_file(end=b"more"), "byte 65: 4 bytes are left over"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_params_are_refused_without_allocating(tmp_path, data, message):
    path = tmp_path / "x.params"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"x\.params, {message}"):
            read_params(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_params_refuse_names_that_occur_twice(tmp_path):
    (tmp_path / "x.params").write_bytes(BY_MXNET.replace(b"aux:b", b"arg:a"))
    with pytest.raises(ValueError, match="byte 207: name 'arg:a' occurs twice"):
        read_params(tmp_path / "x.params")


def test_params_refuse_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.params cannot be read"):
        read_params(tmp_path / "absent.params")
    with pytest.raises(ValueError, match="cannot be read"):
        read_params(tmp_path)
    with pytest.raises(ValueError, match="/dev/null is not a regular file"):
        read_params("/dev/null")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_params_truncated_at_every_byte_are_refused(tmp_path, layout):
    path = tmp_path / "x.params"
    write_params(path, ARRAYS, layout)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"x\.params, byte \d+: "):
            read_params(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(
    max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_params_damaged_anywhere_are_read_or_refused(tmp_path, layout, data):
    path = tmp_path / "x.params"
    write_params(path, ARRAYS, layout)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        new = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=1),
                st.sampled_from([bytes(8), b"\xff" * 8, b"\xff" * 4, b"\x7f" * 4]),
            )
        )
        damaged[at : at + len(new)] = new
    path.write_bytes(damaged)
    tracemalloc.start()
    try:
        arrays = read_params(path)
    except ValueError as error:
        assert "x.params, byte " in str(error)
    else:
        assert sum(array.nbytes for array in arrays.values()) <= len(damaged)
        assert all(np.isfinite(array).all() for array in arrays.values())
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("arrays", "layout", "message"),
    [
        (
            {"x": np.ones(2, np.int32)},
            "V2",
            "array 'x' is int32; expected float16, float32 or float64",
        ),
        (
            {"x": np.ones(())},
            "V2",
            r"array 'x' has shape \(\); expected 1 to 8 positive dimensions",
        ),
        ({"x": np.ones((0, 2))}, "V2", r"array 'x' has shape \(0, 2\)"),
        ({"x": np.array([1, np.nan])}, "V2", r"array 'x' holds nan at \[1\]"),
        ({"x" * 1025: np.ones(2)}, "V2", "a name has 1,025 bytes"),
        ({"x": np.ones(2)}, "V9", "layout 'V9' is unknown; expected one of 2015, V1, V2, V3"),
    ],
)
def test_params_that_nobody_could_read_are_not_written(tmp_path, arrays, layout, message):
    with pytest.raises(ValueError, match=message):
        write_params(tmp_path / "x.params", arrays, layout)
    assert not list(tmp_path.iterdir())


# Names and layouts of arrays

WIDTH = 0.125
RELEASE_1K = {  # names of the 1,000-class release
    "conv_conv1": "conv_1", "bn_conv1": "bn_1", "relu_conv1": "relu_1", "pool1": "max_pool_1",
    "conv_conv2red": "conv_2_reduce", "bn_conv2red": "bn_2_1", "relu_conv2red": "relu_2_1",
    "conv_conv2": "conv_2", "bn_conv2": "bn_2", "relu_conv2": "relu_2", "pool2": "max_pool_2",
    "fc1": "fc",
}  # fmt: skip


def narrow(**fields) -> InceptionBN:
    return InceptionBN(**{"num_classes": 5, "width": WIDTH, **fields})


def arrays_of(model: InceptionBN, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: parameter(name, shape, seed) for name, shape in parameter_shapes(model).items()}


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


# symbol.json


def graph_of_2015(
    model: InceptionBN, names: dict[str, str] | None = None, loss: str = "SoftmaxOutput"
) -> dict:
    """Write a network as MXNet did in October 2015: every parameter explicit, no
    moving statistics, no version.
    """
    names = names or {}
    nodes: list[dict] = []
    index = {}

    def add(op, name, param, inputs):
        index[name] = len(nodes)
        nodes.append(
            {
                "op": op,
                "param": param,
                "name": names.get(name, name),
                "inputs": inputs,
                "backward_source_id": -1,
            }
        )

    add("null", "data", {}, [])
    for op, name, attrs, inputs in operators(model):
        param = {key: str(value) for key, value in attrs.items()}
        kinds = {
            "Convolution": "weight bias",
            "BatchNorm": "gamma beta",
            "FullyConnected": "weight bias",
            "SoftmaxOutput": "label",
        }.get(op, "")
        if op == "Convolution":
            param |= {"num_group": "1", "workspace": "512"}
        elif op == "BatchNorm":
            del param["fix_gamma"]
        elif op == "Pooling":
            param = {
                key: param.get(key, "(0, 0)" if key == "pad" else "(1, 1)")
                for key in ("kernel", "pad", "pool_type", "stride")
            }
        elif op == "SoftmaxOutput":
            op, param = loss, {"grad_scale": "1"}
        for kind in kinds.split():
            add("null", f"{name}_{kind}", {}, [])
            nodes[-1]["name"] = f"{names.get(name, name)}_{kind}"
        add(
            op,
            name,
            param,
            [[index[x], 0] for x in (*inputs, *(f"{name}_{kind}" for kind in kinds.split()))],
        )
    return {
        "nodes": nodes,
        "arg_nodes": [k for k, n in enumerate(nodes) if n["op"] == "null"],
        "heads": [[len(nodes) - 1, 0]],
    }


def write_graph(path: Path, graph) -> Path:
    path.write_text(json.dumps(graph), "utf-8")
    return path


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


# The three files together

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


# MXNet itself

MXNET = os.environ.get("I21K_MXNET_PYTHON")
needs_mxnet = pytest.mark.skipif(
    not MXNET,
    reason='needs MXNet: python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1, '
    "then set I21K_MXNET_PYTHON=mx/bin/python",
)
LOGITS = """
import sys, mxnet as mx, numpy as np
prefix, epoch, photos, out, copied = sys.argv[1:]
symbol, arguments, auxiliary = mx.model.load_checkpoint(prefix, int(epoch))
data = mx.nd.array(np.load(photos).transpose(0, 3, 1, 2))
bound = symbol.get_internals()["fc1_output"].simple_bind(mx.cpu(), data=data.shape, grad_req="null")
bound.copy_params_from(arguments, auxiliary)
np.save(out, bound.forward(is_train=False, data=data)[0].asnumpy())
mx.model.save_checkpoint(copied, int(epoch), symbol, arguments, auxiliary)
"""


@pytest.mark.mxnet
@needs_mxnet
@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(
    ("variant", "width", "layout"),
    [("full", 1.0, "V2"), ("full", 1.0, "2015"), ("standard", 0.5, "V1")],
)
def test_mxnet_gives_the_same_logits_for_what_we_write(tmp_path, revision, variant, width, layout):
    model = InceptionBN(num_classes=1000, variant=variant, revision=revision, width=width)
    order = ClassList(tuple(f"n{wnid:08d}" for wnid in np.random.default_rng(0).permutation(1000)))
    classes = ClassList.sorted(order.ids)
    variables = variables_from_mxnet(arrays_of(model, seed=4), variant, width)
    photos = images(2, 4).astype(np.float32) - np.float32(MEAN)
    np.save(tmp_path / "images.npy", photos)
    write_model(tmp_path, model, variables, classes, order=order, epoch=3, layout=layout)
    arguments = [
        tmp_path / "Inception",
        3,
        tmp_path / "images.npy",
        tmp_path / "logits.npy",
        tmp_path / "copied",
    ]
    subprocess.run([MXNET, "-c", LOGITS, *map(str, arguments)], check=True)
    theirs = np.load(tmp_path / "logits.npy")[:, [order.label_of[wnid] for wnid in classes.ids]]

    copied = read_model(
        tmp_path / "copied-symbol.json", tmp_path / "copied-0003.params", tmp_path / "synset.txt"
    )
    assert copied.model == model and copied.classes == classes
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(model.apply)(copied.variables, photos))
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
