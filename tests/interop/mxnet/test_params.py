"""The format of `.params` files, and hostile ones."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i21k.interop.mxnet.params import read_params, write_params
from tests.helpers.mxnet import LAYOUTS, same

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
    """Write a file of one array in the layout of 2015, with any values."""
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
    with pytest.raises(ValueError, match="/dev/null is a pipe or a device"):
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
