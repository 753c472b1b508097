"""What a run has written, compared with another run, and a signal in the middle of one."""

import os
import signal

from i21k.checkpoints import Checkpoints
from i21k.train import loop
from i21k.train.report import read_metrics

TIMES = {"images_per_s", "data_wait_fraction", "train_s"}


def metrics(workdir) -> list[dict[str, str]]:
    """The rows without what a clock measured."""
    return [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(workdir)
    ]


def assert_same_checkpoint(a, b):
    one, other = (Checkpoints(workdir / "checkpoints").newest() for workdir in (a, b))
    assert one is not None and other is not None
    assert one.step == other.step
    assert one.meta["digests"] == other.meta["digests"]  # SHA-256 of every array


def signal_at(monkeypatch, step: int) -> None:
    """Send SIGTERM to this process when a run has done `step` steps."""
    do = loop._one_step

    def one_step(run, batches):
        wait_s = do(run, batches)
        if run.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
            while not run.interruption:  # the thread that reads signals needs a moment
                pass
        return wait_s

    monkeypatch.setattr(loop, "_one_step", one_step)


def row(epoch: int, step: int) -> dict:
    """The numbers of an epoch without evaluations."""
    return {
        "epoch": epoch,
        "step": step,
        "lr": 0.05,
        "train_loss": 2.5,
        "train_top1": 0.25,
        "train_top5": 0.5,
        "images_per_s": 100.0,
    }
