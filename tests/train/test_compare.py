import json

import pytest

from i21k import cli
from i21k.errors import UserError
from i21k.train.compare import differences, find_runs
from i21k.train.history import record_changes, record_start
from i21k.train.recipe import default_config


def make_run(directory, rows, **keys):
    config = default_config()
    config.update(keys)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(config.to_json())
    head = "epoch,step,train_loss,val_loss,val_top1,images_per_s\n"
    (directory / "metrics.csv").write_text(head + "".join(f"{row}\n" for row in rows))


def test_runs_side_by_side(tmp_path, capsys):
    rows = ["1,10,2.5,2,0.5,100.5", "1.5,15,2.25,2,0.75,101", "2,20,2.0,2.5,0.625,99"]
    make_run(tmp_path / "a", rows)
    make_run(tmp_path / "in" / "b", [], epochs=3)
    parent = {"workdir": str(tmp_path / "a"), "step": 10, "digest": ""}
    record_start(tmp_path / "in" / "b", 10, {"versions": {}}, parent)
    record_changes(tmp_path / "a", 10, {"epochs": (5, 10)})
    first, second = find_runs(tmp_path)
    assert (first.name, second.name) == ("a", "in/b")
    assert (first.best_step, first.best_value, first.changes) == (15, 0.75, 1)
    assert first.last["val_top1"] == "0.625" and second.last == {}
    assert differences([first, second]) == {"epochs": [10, 3]}
    assert cli.main(["runs", str(tmp_path)]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "run epoch step train_loss val_loss val_top1 best at step images/s from",
        "a 2 20 2 2.5 0.625 val_top1 0.75 15 99",
        "in/b a@10",
        "",
        "recipe a in/b",
        "epochs 10 3",
    ]
    assert cli.main(["runs", str(tmp_path / "a"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "a" and found["best_step"] == 15 and found["recipe"]["epochs"] == 10


def test_the_best_is_not_looked_for_in_a_column_of_the_user(tmp_path):
    config = default_config()
    config.log.keep_best = "my_note"
    make_run(tmp_path / "a", ["1,10,2.5,2,0.5,100.5"], log=config.log)
    path = tmp_path / "a" / "metrics.csv"
    head, row = path.read_text().splitlines()
    path.write_text(f"{head},my_note\n{row},good\n")
    (run,) = find_runs(tmp_path)
    assert (run.best_metric, run.best_step) == ("val_top1", 10)


def test_what_is_no_run_is_not_listed_and_damage_is_named(tmp_path, capsys):
    make_run(tmp_path / "a", [])
    for name, content in [
        ("export", '{"format": "i21k-safetensors-1", "step": 3, "config": {}}'),
        ("model", '{"architectures": ["ViT"]}'),
        ("list", "[1]"),
        ("deep", "[" * 100_000),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    make_run(tmp_path / "rows", ["1,x,2.5,2,0.5,100.5", "2,20,2.0,2.5,0.625,99"])
    (tmp_path / "zero" / "checkpoints").mkdir(parents=True)
    (tmp_path / "zero" / "config.json").write_bytes(bytes(100))
    assert [run.name for run in find_runs(tmp_path)] == ["a"]
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == warned.count("The run is not listed.") == 2
    assert f"{tmp_path / 'zero'} have no recipe" in warned and "rows/metrics.csv" in warned


def test_a_name_of_several_lines_stays_in_its_row(tmp_path, capsys):
    make_run(tmp_path / "new\nline", ["1,10,2.5,2,0.5,100.5"], epochs=3)
    make_run(tmp_path / "tab\t", ["1,10,2.5,2,0.5,100.5"])
    assert cli.main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[1].startswith("new\\nline  ")
    assert len({len(line) for line in lines[:3]}) == 1


@pytest.mark.parametrize("value", [5, None, [1]])
def test_a_recipe_that_cannot_be_resumed_is_listed(tmp_path, value):
    make_run(tmp_path / "a", ["1,10,2.5,2,0.5,100.5"])
    recipe = json.loads((tmp_path / "a" / "config.json").read_text())
    recipe["log"]["keep_best"] = value
    (tmp_path / "a" / "config.json").write_text(json.dumps(recipe))
    (run,) = find_runs(tmp_path)
    assert (run.best_metric, run.best_step) == ("val_top1", 10)


def test_a_directory_without_runs(tmp_path):
    with pytest.raises(UserError, match="holds no runs"):
        find_runs(tmp_path)
