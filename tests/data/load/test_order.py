import numpy as np
import pytest

from benchmarks.order import BATCH_SIZE, NUM_RECORDS, orders, statistics
from i21k.data.load import order as order_module
from i21k.data.load.order import (
    LANES,
    SPAN_BYTES,
    SPANS_PER_WINDOW,
    GlobalOrder,
    StoredOrder,
    Window,
    WindowedOrder,
    epoch_end,
    span_length,
)


def windowed(num_records=1003, batch_size=24, seed=3, length=5):
    return WindowedOrder(num_records, batch_size, seed, length)


def epochs(order, number=3):
    """The records of the first epochs, a row each."""
    return np.array(order(np.arange(number * order.num_records))).reshape(number, order.num_records)


@pytest.mark.parametrize(
    "order",
    [
        GlobalOrder(101, 5),
        windowed(),
        windowed(44, 8, 0, 44),  # a single run
        windowed(37, 37, 1, 1),
        windowed(9, 3, 2, 2),  # lanes without a slot
        windowed(20_011, 64, 2**63 - 1, 40),
    ],
    ids=lambda order: f"{type(order).__name__}-{order.num_records}",
)
def test_every_epoch_visits_every_record_once_and_epochs_differ(order):
    rows = epochs(order)
    assert (np.sort(rows, axis=1) == np.arange(order.num_records)).all()
    assert len({tuple(row) for row in rows.tolist()}) == 3


@pytest.mark.parametrize("order", [GlobalOrder(1003, 3), windowed()], ids=["global", "windowed"])
def test_a_record_depends_on_its_place_and_the_seed_alone(order):
    whole = epochs(order).ravel()
    places = np.array([2999, 17, 1003, 17, 500])
    assert order(places) == whole[places].tolist()
    other = epochs(type(order)(**{**vars(order), "seed": 4}))
    assert np.mean(other.ravel() == whole) < 0.05
    assert (
        np.mean(other[0] == whole.reshape(other.shape)[1]) < 0.05
    )  # nor is the next seed the next epoch


@pytest.mark.parametrize("records", [1003, 20_011])
def test_a_permutation_of_very_many_spans_is_not_stored(monkeypatch, records):
    monkeypatch.setattr(order_module, "MAX_STORED_SPANS", 4)
    order_module._records.cache_clear()
    monkeypatch.setattr(
        order_module,
        "_permutation",
        lambda size, *key: permutation(size, *key) if size < 60 else 1 / 0,
    )
    order = windowed(num_records=records, seed=records)  # a seed that no other test has cached
    rows = epochs(order)
    assert (np.sort(rows, axis=1) == np.arange(records)).all()
    assert len({tuple(row) for row in rows.tolist()}) == 3
    neighbours = np.abs(np.diff(np.sort(rows[0][:80]))) == 1
    assert neighbours.mean() > 0.2  # spans stay together
    order_module._records.cache_clear()


permutation = order_module._permutation


def test_the_stored_order_ends():
    assert StoredOrder(10)(np.arange(8, 16)) == [8, 9]


def test_an_epoch_ends_with_the_first_step_that_reaches_its_end():
    assert [epoch_end(e, 44, 8) for e in range(3)] == [6, 11, 17]
    assert [epoch_end(e, 40, 8) for e in range(2)] == [5, 10]


# ------------------------------------------------------------------------------- 14 million records
# Limits are five standard deviations of what independent draws give: 307,200 of them in 300
# batches.

LIMITS = {
    "range_chi2": (1, 0.019),
    "close_pairs": (1, 0.38),
    "correlation": (0, 0.009),
    "epochs_chi2": (1, 0.22),
}


def failures(values):
    return {
        key
        for key, (expected, tolerance) in LIMITS.items()
        if abs(values[key] - expected) > tolerance
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_our_shuffle_of_14_million_records_is_like_independent_draws(seed):
    assert failures(statistics(orders(seed)["global"], seed)) == set()


def test_the_stock_shuffle_fails_the_same_test():
    values = statistics(orders(0)["stock"])
    assert failures(values) == {"range_chi2", "close_pairs", "correlation", "epochs_chi2"}
    assert values["range_chi2"] > 1.3 and values["close_pairs"] > 10


@pytest.mark.slow
def test_what_windows_cost_in_randomness():
    values = statistics(orders(0)["windowed"])
    assert (
        14 < values["range_chi2"] < 18
    )  # a batch of 1,024 comes from 64 runs: 1 + 1,024/64 if its records were drawn evenly
    assert values["close_pairs"] > 100
    assert (
        abs(values["correlation"]) < 0.25 and values["epochs_chi2"] < 10
    )  # no run prefers a place in the batch or the epoch


# --------------------------------------------------------------------------------------------------


def test_a_run_is_three_megabytes_and_no_more_than_there_is():
    assert span_length(NUM_RECORDS, NUM_RECORDS * 29_700) == 102 and SPAN_BYTES <= 102 * 29_700
    assert span_length(44, 44_000) == 44
    assert span_length(10, 10 * SPAN_BYTES * 2) == 1


def test_the_windows_of_a_big_epoch_are_whole_runs():
    order = orders(0)["windowed"]
    places = np.arange(5_000_000, 5_000_000 + BATCH_SIZE)
    windows = order.windows(places)
    assert LANES <= len(windows) <= 2 * LANES
    for window in windows:
        runs = order.spans(window)
        assert len(runs) <= SPANS_PER_WINDOW and {end - first for first, end in runs} <= {
            102,
            204,
        }  # two may be neighbours
    assert set(order(places)) <= {
        n for window in windows for first, end in order.spans(window) for n in range(first, end)
    }


def test_windows_follow_each_other_through_epochs():
    order = windowed()
    windows = order.windows(np.arange(3 * 1003))
    for lane in range(LANES):
        mine = [window for window in windows if window.lane == lane]
        assert [order.following(window) for window in mine[:-1]] == mine[1:]


def test_the_runs_of_a_window_are_its_records_and_no_more():
    order = windowed(length=1)  # so that some of them have a single record between them
    for window in order.windows(np.arange(2 * 1003)):
        runs = [n for first, end in order.spans(window) for n in range(first, end)]
        assert runs == sorted(order.records(window).tolist())


def test_other_runs_meet_in_every_epoch():
    order = windowed(20_011, 64, 3, 40)
    runs = [order.spans(Window(epoch, 0, 0)) for epoch in range(2)]
    one, two = (
        {(a - b) % order.num_records for a, _ in row for b, _ in row} for row in runs
    )  # wherever the ring begins
    assert len(one & two) < 0.5 * len(one)


def test_each_host_has_windows_of_its_own():
    order = orders(0)["windowed"]
    steps = np.arange(0, 40 * BATCH_SIZE, BATCH_SIZE)
    parts = [
        np.concatenate([step + np.arange(h, h + BATCH_SIZE // 4) for step in steps])
        for h in range(0, BATCH_SIZE, BATCH_SIZE // 4)
    ]
    read = [
        {run for window in order.windows(part) for run in order.spans(window)} for part in parts
    ]
    assert sum(map(len, read)) - len(set().union(*read)) <= 3  # where two shares meet, at most
