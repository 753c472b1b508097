"""MXNet 1.9.1 itself gives the same logits. Needs an environment with MXNet."""

import os
import subprocess

import jax
import numpy as np
import pytest

from i21k.interop.mxnet.convert import (
    read_model,
    variables_from_mxnet,
    write_model,
)
from i21k.labels import ClassList
from i21k.models.inception_bn import MEAN, REVISIONS, InceptionBN
from tests.golden.make_golden import images
from tests.helpers.mxnet import arrays_of

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
