"""Who builds the batches, if nobody says."""

import dataclasses

from i21k.data.load import options
from i21k.data.load.options import LoaderOptions


def test_processes_are_chosen_where_images_are_many_and_memory_is_free(monkeypatch):
    auto = LoaderOptions(8, 32, workers=options.AUTO, threads=3)
    monkeypatch.setattr(options, "available_bytes", lambda: 8 << 30)
    assert options.choose_workers(auto, 1_000_000).workers == 3
    assert options.choose_workers(auto, 5_000).workers == 0
    assert options.choose_workers(dataclasses.replace(auto, threads=1), 1_000_000).workers == 0
    assert options.choose_workers(dataclasses.replace(auto, workers=0), 1_000_000).workers == 0
    windowed = dataclasses.replace(auto, order="windowed")
    assert options.choose_workers(windowed, 1_000_000).workers == 0
    of_eight = dataclasses.replace(auto, num_hosts=8)
    assert options.choose_workers(of_eight, 1_000_000).workers == 0
    monkeypatch.setattr(options, "available_bytes", lambda: 1 << 30)
    assert options.choose_workers(auto, 1_000_000).workers == 0
