"""Named evaluations: the columns, the mapping of classes, and numbers with many classes."""

import jax
import numpy as np
import pytest

from i21k.data.format.splits import open_split
from i21k.data.load import loader
from i21k.errors import UserError
from i21k.evaluation.scores import Scores
from i21k.labels import ClassList
from i21k.models.inception_bn import InceptionBN
from i21k.models.inception_network import InceptionNetwork
from i21k.train import evaluators, passes, steps
from i21k.train.devices import put_state
from i21k.train.losses import SoftmaxLoss
from i21k.train.metrics import Sums, Totals
from i21k.wordnet.class_lists import columns, named
from tests.helpers.datasets import write_dataset
from tests.helpers.stepping import initial

pytestmark = pytest.mark.usefixtures("few_blocks")
MODEL = ClassList.sorted(named("ilsvrc2012").ids[:40])
# In another order, and one that the model lacks. Images are of the first four.
OTHER = ClassList((MODEL.ids[30], named("ilsvrc2012").ids[-1], *MODEL.ids[29:8:-1]))


@pytest.fixture(scope="module")
def network(few_blocks):
    """A network, and variables whose answers differ between images."""
    module = InceptionBN(
        num_classes=len(MODEL), variant="standard", revision="symbol2016", width=0.125
    )
    network = InceptionNetwork(module)
    state = initial(network)
    kernel = state.params["fc1"]["kernel"]
    kernel = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    params = {**state.params, "fc1": {**state.params["fc1"], "kernel": kernel}}
    return network, {"params": params, "batch_stats": state.batch_stats}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "other"
    return open_split(write_dataset(directory, {"val": 70}, classes=OTHER), "val")


def make(network, sets):
    devices = jax.local_devices()
    options = loader.eval_options(16, 32, 0.875, len(devices))
    return evaluators.make_evaluators(sets, network[0], MODEL, options, devices, SoftmaxLoss())


def test_a_set_of_other_classes_has_the_numbers_of_evaluate(network, other):
    (evaluator,) = make(network, {"other": other})
    devices = jax.local_devices()
    variables = put_state(network[1], devices)
    result = evaluator.run(variables, lambda: False)
    assert result is not None and tuple(result.values) == evaluator.columns
    scores = Scores(MODEL, other.classes, other.classes)
    step = steps.make_log_probabilities_step(network[0], devices)
    options = loader.eval_options(16, 32, 0.875, len(devices))
    for found, labels in passes.log_probabilities(step, variables, other, options, devices):
        scores.add(found, labels)
    table = scores.summary()["table"]
    for top in ("top1", "top5", "top20"):
        assert result.values[f"other_{top}"] == pytest.approx(table["all"][top])
        assert result.values[f"other_over_{top}"] == pytest.approx(table["over"][top])
    # Images of the unknown class are wrong everywhere, and these two columns differ.
    assert table["over"]["top20"] < 1 and table["all"]["top20"] < table["over"]["top20"]


def test_a_set_of_the_same_classes_in_another_order(network, tmp_path):
    reverse = ClassList(MODEL.ids[::-1])
    splits = {
        name: open_split(write_dataset(tmp_path / name, {"val": 80}, classes=classes), "val")
        for name, classes in (("same", MODEL), ("reverse", reverse))
    }
    same, reverse = make(network, splits)
    assert same.columns == ("same_loss", "same_top1", "same_top5", "same_top20")
    assert isinstance(reverse, evaluators.SameClasses)
    labels = columns(MODEL, splits["reverse"].classes)
    assert labels.tolist() == list(range(39, -1, -1))


def test_a_set_without_a_class_of_the_model(other):
    with pytest.raises(
        UserError, match=r"^evaluation 'x' has none of the model's 1 classes: n1; its own are 23 cl"
    ):
        evaluators.check_classes("x", other, ClassList(("n1",)))


def test_ranks_among_thirty_classes():
    """Label k has k logits above it, so that 1, 5 and 20 of 30 labels are hits; -1 never is."""
    logits = np.tile(-np.arange(30, dtype=np.float32), (32, 1))
    labels = np.array([*range(30), -1, 3], np.int32)
    weights = np.ones(32, np.float32)
    weights[-1] = 0
    losses = np.ones(32, np.float32)
    totals = Totals.fetch(
        jax.jit(Sums.of)(losses, logits, np.maximum(labels, 0), weights, labels >= 0)
    )
    assert (totals.hits, totals.count, totals.loss) == ((1, 5, 20), 31, 30)
