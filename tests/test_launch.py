"""`launch.py` as users start it: in processes of their own, killed and started again."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from i21k.checkpoints import Checkpoints
from i21k.train import loop
from i21k.train.history import read_recipe, read_run
from i21k.train.recipe import describe_keys
from tests.helpers.datasets import write_dataset
from tests.helpers.launching import arguments_of, launch, start, wait_for_line
from tests.helpers.paths import ROOT
from tests.helpers.runs import assert_same_checkpoint, metrics


@pytest.mark.slow
def test_kill_9_and_a_signal_to_the_whole_group_lose_nothing(recipe, tmp_path):
    finished, workdir = tmp_path / "finished", tmp_path / "w"
    loop.run(recipe, finished)
    recipe.data.workers = 1
    recipe.log.every_steps = 1  # a line a step, to see where it is
    running = start(recipe, workdir)
    wait_for_line(running, "step 8/11")
    running.kill()
    running.communicate(
        timeout=20
    )  # ends only when the loader's worker, which holds the pipe too, has ended
    assert max(Checkpoints(workdir / "checkpoints").steps()) >= 6

    running = start(recipe, workdir, start_new_session=True)
    wait_for_line(running, "step 8/11")
    os.killpg(running.pid, signal.SIGTERM)  # loader workers get it too
    out, _ = running.communicate(timeout=60)
    if running.returncode != 0:  # unless it was done already
        assert (
            running.returncode == 143 and "SIGTERM: saving a checkpoint after this step" in out
        ), out
        out, _ = start(recipe, workdir).communicate(timeout=120)
        assert "resuming at step" in out
    assert metrics(workdir) == metrics(finished)
    assert_same_checkpoint(workdir, finished)


@pytest.mark.slow
def test_a_signal_while_xla_compiles_is_heard(recipe, tmp_path):
    running = start(recipe, tmp_path / "w")
    wait_for_line(running, "compiling the train step")
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 130 and "SIGINT: ending; there is nothing to save" in out, out
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == []


@pytest.mark.slow
def test_sigterm_while_xla_compiles_ends_within_seconds(recipe, tmp_path):
    running = start(
        recipe, tmp_path / "w", env={"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cold")}
    )  # so that it compiles for seconds
    wait_for_line(running, "compiling the train step")
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 143 and "SIGTERM: ending; there is nothing to save" in out, out
    assert Checkpoints(tmp_path / "w" / "checkpoints").steps() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config"),
        (
            ["--config", "configs/quickstart.py", "extra"],
            "leftover argument 'extra'. Give --config FILE, --workdir DIR or --config.KEY=VALUE",
        ),
        (["--config", "configs/gone.py"], "configs/gone.py"),
        (
            ["--resume", "runs/gone"],
            "error: runs/gone holds no run. Give the working directory of a run.",
        ),
        (
            ["--resume", "runs/gone", "--config", "configs/quickstart.py"],
            "--resume and --config are given. Use --resume alone",
        ),
        (
            ["--config", "configs/quickstart.py", "--config.epoch=3"],
            "--config.epoch=3: config.epoch is not a key. Did you mean --config.epochs=3? python",
        ),
        (["--config", "configs/quickstart.py", "--config.epochs=many"], "many"),
        (
            ["--config", "configs/quickstart.py", "--config.epochs=0"],
            "error: config.epochs is 0. Use at least 1",
        ),
        (
            ["--config", "configs/i21k_inception.py", "--config.devices=1"],
            "i21k pack SOURCE --out data/imagenet21k",
        ),
    ],
)
def test_user_errors_have_no_traceback(arguments, message, tmp_path):
    running = launch([*arguments, f"--workdir={tmp_path / 'w'}"])
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 2 and message in out
    assert "Traceback" not in out
    assert not (tmp_path / "w").exists()


def test_recipe_that_is_none_is_explained(tmp_path):
    (tmp_path / "five.py").write_text("def get_config():\n    return 5\n")
    running = launch(["--config", str(tmp_path / "five.py"), f"--workdir={tmp_path / 'w'}"])
    out, _ = running.communicate(timeout=60)
    assert (
        running.returncode == 2
        and "error: config is 5. Return a ConfigDict from get_config()." in out
        and "Traceback" not in out
    )


def test_help_shows_the_flags_of_this_program_and_the_keys_of_a_recipe():
    out, _ = launch(["--help"]).communicate(timeout=60)
    for holder in ("--config", "--workdir", "--coordinator", "--num-processes", "--start-s"):
        assert f"  {holder}\n" in out
    assert "exit codes" in out.lower() and "2 the user can fix it" in " ".join(out.split())
    for of_abseil in ("--verbosity", "--logtostderr", "--pdb", "--flagfile", "--run_with"):
        assert of_abseil not in out
    words = " ".join(out.split())
    for key in describe_keys():
        assert (
            f"  {key.name}" in out and f"({key.type}; default {key.default!r}) {key.help}" in words
        )


def run_with(code: str, arguments: list[str]) -> tuple[int, str]:
    """Run `launch.py` after some code; return the exit code and the output."""
    script = f"""if True:
        import os, runpy, sys
        sys.argv = ["launch.py", *sys.argv[1:]]
        from i21k import backend
        backend.prepare()
        {code}
        runpy.run_path({str(ROOT / "launch.py")!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_a_value_error_of_the_train_step_keeps_its_traceback(recipe, tmp_path):
    code = """
        from i21k.train import steps
        def make_train_step(*_, **__):
            def planted(*_):
                raise ValueError("planted")
            return planted
        steps.make_train_step = make_train_step
    """.strip()
    exit_code, out = run_with(code, arguments_of(recipe, tmp_path / "w"))
    assert exit_code == 1, out
    assert "Traceback" in out and "in planted" in out and "ValueError: planted" in out
    assert "error: planted" not in out


def test_a_damaged_checkpoint_is_named(recipe, tmp_path):
    directory = tmp_path / "w" / "checkpoints"
    Checkpoints(directory).save(3, {"w": np.ones(2)}, {"epoch_done": True, "classes": ["a"]})
    (directory / "3" / "meta" / "metadata").write_text("{")
    exit_code, out = run_with("", arguments_of(recipe, tmp_path / "w"))
    assert exit_code == 2, out
    assert f"warning: checkpoint {directory / '3'} is damaged (metadata: " in out
    assert f"error: no intact checkpoint in {directory}" in out and "Traceback" not in out
    assert "absl" not in out and "orbax/" not in out


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "AttributeError"])
def test_a_bug_in_a_recipe_keeps_its_traceback(error, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(f"def get_config():\n    raise {error}('in the recipe')\n")
    running = launch(["--config", str(file), f"--workdir={tmp_path / 'w'}"])
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Traceback" in out and "broken.py" in out and "in the recipe" in out


def test_the_root_logger_keeps_its_level():
    exit_code, out = run_with(
        "import atexit, logging; atexit.register(lambda: print(logging.getLogger().level))",
        ["--config", "configs/i21k_inception.py", "--config.devices=1"],
    )
    assert exit_code == 2 and out.splitlines()[-1] == "30"


@pytest.mark.slow
def test_a_run_resumes_by_its_own_recipe_and_branches(recipe, tmp_path):
    """The flags are global, so this needs processes; what they train is tested elsewhere."""
    recipe.epochs, workdir = 1, tmp_path / "a"
    loop.run(recipe, workdir)
    out, _ = launch(["--resume", str(workdir), "--config.seed=5"]).communicate(timeout=120)
    assert "config.seed was 0 and is 5. To continue it with its own recipe, use --resume" in out
    overrides = ["--config.epochs=2", "--config.optimizer.learning_rate=0.5"]
    running = launch(["--resume", str(workdir), *overrides, "--config.evaluation.sets=none"])
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 0, out
    assert "resuming at step 6 of 11" in out and "learning_rate was 0.01 and is 0.5" in out
    assert read_run(workdir)["starts"][-1]["command"][-1] == "--config.evaluation.sets=none"
    branch = ["--branch-from", f"{workdir}@6", "--workdir", str(tmp_path / "b")]
    running = launch([*branch, "--config.seed=5"])
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 0, out
    assert f"branching from {workdir} at step 6 of 11" in out
    assert read_recipe(tmp_path / "b")["seed"] == 5 and read_recipe(tmp_path / "b")["epochs"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workdir=b"], "--resume is {a} and --workdir is b. Omit --workdir, or use"),
        (["--branch-from=b"], "--resume and --branch-from are given. Use --resume alone"),
    ],
)
def test_flags_that_do_not_fit_resume(tmp_path, more, message):
    (tmp_path / "config.json").write_text(ConfigDict({"epochs": 3, "batch_size": 8}).to_json())
    running = launch([f"--resume={tmp_path}", *more])
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 2 and message.format(a=tmp_path) in out


@pytest.mark.parametrize("flag", ["--workdir", "--resume", "--branch-from"])
def test_an_empty_directory_is_refused(flag):
    """The default of --workdir would be another run, and no branch would start from nothing."""
    recipe = [] if flag == "--resume" else ["--config", "configs/quickstart.py"]
    running = launch([*recipe, f"{flag}="])
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 2 and f"error: {flag} is empty. Give a directory" in out


def test_a_branch_needs_a_directory_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text(ConfigDict({"epochs": 3, "batch_size": 8}).to_json())
    out, _ = launch([f"--branch-from={tmp_path}@3"]).communicate(timeout=60)
    assert "--branch-from is given without --workdir" in out
    out, _ = launch([f"--branch-from={tmp_path}", f"--workdir={tmp_path}"]).communicate(timeout=60)
    assert f"--branch-from and --workdir are both {tmp_path}" in out


@pytest.mark.slow
def test_the_modern_recipe_does_two_steps_on_four_devices(tmp_path):
    """As a user starts it, with fewer blocks and small images: one compilation for each size."""
    data = write_dataset(tmp_path / "d", {"train": 16, "val": 5})
    changes = {
        "epochs": 1,
        "batch_size": 8,
        "image_size": "32@0 40@0.5",
        "data.directory": data,
        "data.threads": 1,
        "model.variant": "standard",
        "model.width": 0.125,
        "evaluation.image_size": 48,
        "evaluation.batch_size": 8,
        "evaluation.recalibrate_bn": 8,
        "log.every_steps": 1,
    }
    arguments = ["--config=configs/i21k_modern.py", f"--workdir={tmp_path / 'w'}"]
    command = [sys.executable, "-m", "tests.helpers.few_blocks", *arguments]
    done = subprocess.run(
        [*command, *(f"--config.{key}={value}" for key, value in changes.items())],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert "4 x cpu" in done.stdout and "batch 8 = 4 x 2 | 32 px, 40 px from step 1" in done.stdout
    assert done.stdout.count("| compiling the train step") == 2
    assert "step 2/2" in done.stdout and "done: 1 epochs" in done.stdout
    assert read_recipe(tmp_path / "w")["image_size"] == "32@0 40@0.5"
