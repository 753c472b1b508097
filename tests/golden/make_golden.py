"""Make the golden values of the parity tests with MXNet 1.9.1 on the CPU.

The tests make the same inputs again from names. MXNet needs an environment of its own (NumPy below
1.24). The network is therefore written here a second time, in MXNet's own operators and without our
code: the test compares two programs.

    python3.11 -m venv mx && mx/bin/pip install "numpy<1.24" mxnet==1.9.1
    mx/bin/python tests/golden/make_golden.py --variant full --revision released \\
        --out tests/golden/full_released.npz

The other files have `--variant standard`, `--revision symbol2016`, or both. They are of seed 0. With
`--seed` it makes others, which `I21K_GOLDEN=DIRECTORY pytest -k golden` then compares. With
`--symbol full_released-symbol.json.gz` instead of `--out` it stores the graph as MXNet writes it.
"""

import argparse
import gzip
import pathlib
import zlib

import numpy as np

STEM = {"full": (96, 128, 288), "standard": (64, 64, 192)}
# 1x1 (0: the block halves the size), 3x3 reduce, 3x3, double reduce, double, pool, projection
BOTTOM = {
    "full": {
        "3a": (96, 96, 96, 96, 144, "avg", 48),
        "3b": (96, 96, 144, 96, 144, "avg", 96),
        "3c": (0, 192, 240, 96, 144, "max", 0),
    },
    "standard": {
        "3a": (64, 64, 64, 64, 96, "avg", 32),
        "3b": (64, 64, 96, 64, 96, "avg", 64),
        "3c": (0, 128, 160, 64, 96, "max", 0),
    },
}
TOP = {
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 128),
    "4d": (96, 128, 192, 160, 192, "avg", 128),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}
DOUBLE_4D = {"full": 96, "standard": 192}
CLASSES = {"full": 21841, "standard": 1000}


def parameter(name, shape, seed):
    """Make one parameter, float32 in MXNet's layout, from its MXNet name."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    if name.endswith(("moving_var", "gamma")):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("_weight"):
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    else:
        value = rng.standard_normal(shape) * 0.1
    return value.astype(np.float32)


def images(count, seed):
    """Make uint8 RGB images [count, 224, 224, 3]: coarse squares and noise."""
    rng = np.random.default_rng([7, seed])
    coarse = rng.integers(0, 256, (count, 29, 29, 3)).astype(np.float64)
    squares = np.kron(coarse, np.ones((1, 8, 8, 1)))[:, :224, :224]
    return np.clip(squares + rng.normal(0, 8, squares.shape), 0, 255).astype(np.uint8)


def labels(num_classes):
    """Choose the four labels of the training step."""
    return np.array([0, 1, num_classes // 2, num_classes - 1], np.int32)


def network(variant, revision, num_classes):
    """Return the network in MXNet's operators."""
    import mxnet as mx

    if revision == "released":
        pooling = {"pooling_convention": "full", "count_include_pad": False}
        normalisation = {"fix_gamma": False, "eps": 1e-10}
        reduction_padding = 0
    else:
        pooling = {"pooling_convention": "valid", "count_include_pad": True}
        normalisation = {"fix_gamma": True, "eps": 1e-3}
        reduction_padding = 1

    def unit(x, filters, name, kernel=1, stride=1):
        window = {
            "kernel": (kernel, kernel),
            "stride": (stride, stride),
            "pad": (kernel // 2, kernel // 2),
        }
        x = mx.sym.Convolution(x, num_filter=filters, name=f"conv_{name}", **window)
        x = mx.sym.BatchNorm(x, name=f"bn_{name}", **normalisation)
        return mx.sym.Activation(x, act_type="relu", name=f"relu_{name}")

    def pool(x, kind, name, stride, padding):
        window = {"kernel": (3, 3), "stride": (stride, stride), "pad": (padding, padding)}
        return mx.sym.Pooling(x, pool_type=kind, name=name, **window, **pooling)

    stem = STEM[variant]
    x = unit(mx.sym.Variable("data"), stem[0], "conv1", 7, 2)
    x = unit(pool(x, "max", "pool1", 2, 0), stem[1], "conv2red")
    x = pool(unit(x, stem[2], "conv2", 3), "max", "pool2", 2, 0)
    for name, (one, reduce, three, double_reduce, double, kind, projection) in {
        **BOTTOM[variant],
        **TOP,
    }.items():
        double = DOUBLE_4D[variant] if name == "4d" else double
        stride = 1 if one else 2
        branches = [unit(x, one, f"{name}_1x1")] if one else []
        branches += [unit(unit(x, reduce, f"{name}_3x3_reduce"), three, f"{name}_3x3", 3, stride)]
        y = unit(
            unit(x, double_reduce, f"{name}_double_3x3_reduce"), double, f"{name}_double_3x3_0", 3
        )
        branches += [unit(y, double, f"{name}_double_3x3_1", 3, stride)]
        y = pool(x, kind, f"{kind}_pool_{name}_pool", stride, 1 if one else reduction_padding)
        branches += [unit(y, projection, f"{name}_proj")] if one else [y]
        x = mx.sym.Concat(*branches, name=f"ch_concat_{name}_chconcat")
    x = mx.sym.Flatten(
        mx.sym.Pooling(x, pool_type="avg", kernel=(7, 7), name="global_pool"), name="flatten"
    )
    x = mx.sym.FullyConnected(x, num_hidden=num_classes, name="fc1")
    return mx.sym.SoftmaxOutput(x, name="softmax", normalization="batch")


def golden(variant, revision, seed):
    """Compute the values: with moving statistics, and loss and gradients with the batch's."""
    import mxnet as mx

    net = network(variant, revision, CLASSES[variant])
    data = np.ascontiguousarray(images(4, seed).transpose(0, 3, 1, 2).astype(np.float32) - 117.0)
    label = labels(CLASSES[variant])
    shapes, _, auxiliary_shapes = net.infer_shape(data=data.shape)
    named = [
        (n, s) for n, s in zip(net.list_arguments(), shapes) if n not in ("data", "softmax_label")
    ]
    arguments = {n: parameter(n, s, seed) for n, s in named}
    auxiliary = {
        n: parameter(n, s, seed) for n, s in zip(net.list_auxiliary_states(), auxiliary_shapes)
    }
    if revision == "symbol2016":  # MXNet computes with 1 whatever is stored
        arguments.update({n: np.ones_like(v) for n, v in arguments.items() if n.endswith("gamma")})

    def bind(symbol, gradients):
        bound = symbol.simple_bind(
            mx.cpu(), data=data.shape, grad_req="write" if gradients else "null"
        )
        arrays = ({n: mx.nd.array(v) for n, v in group.items()} for group in (arguments, auxiliary))
        bound.copy_params_from(*arrays, allow_extra_params=True)
        return bound

    stored = {"seed": np.array(seed), "num_classes": np.array(CLASSES[variant]), "label": label}
    taps = [
        "relu_conv1",
        "pool1",
        "pool2",
        *(f"ch_concat_{name}_chconcat" for name in {**BOTTOM[variant], **TOP}),
        "flatten",
        "fc1",
    ]
    internals = net.get_internals()
    bound = bind(mx.sym.Group([internals[f"{tap}_output"] for tap in taps]), gradients=False)
    *blocks, features, logits = (
        out.asnumpy() for out in bound.forward(is_train=False, data=mx.nd.array(data))
    )
    for tap, out in zip(taps[:-2], blocks):
        stored[f"eval/{tap}/shape_nchw"] = np.array(out.shape)
        stored[f"eval/{tap}/mean_std"] = np.array(
            [out.mean(dtype=np.float64), out.std(dtype=np.float64)]
        )
        stored[f"eval/{tap}/corner_chw"] = out[0, :8, :4, :4]
    stored["eval/features"], stored["eval/logits"] = features, logits

    bound = bind(net, gradients=True)
    probabilities = bound.forward(
        is_train=True, data=mx.nd.array(data), softmax_label=mx.nd.array(label)
    )[0].asnumpy()
    bound.backward()
    stored["train/loss"] = np.array(
        -np.log(probabilities[np.arange(4), label].astype(np.float64)).mean()
    )
    for name in arguments:
        stored[f"train/grad_norm/{name}"] = np.array(
            np.linalg.norm(bound.grad_dict[name].asnumpy().astype(np.float64))
        )
    return stored


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--variant", choices=STEM, required=True)
    cli.add_argument("--revision", choices=("released", "symbol2016"), required=True)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--out", help="for the golden values")
    cli.add_argument("--symbol", help="for the graph")
    args = cli.parse_args()
    if args.out:
        np.savez_compressed(args.out, **golden(args.variant, args.revision, args.seed))
    if args.symbol:
        graph = network(args.variant, args.revision, CLASSES[args.variant]).tojson()
        pathlib.Path(args.symbol).write_bytes(gzip.compress(graph.encode(), 9, mtime=0))
