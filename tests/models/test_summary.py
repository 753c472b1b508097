import sys

import pytest

from i21k import cli
from i21k.models.network import build
from i21k.models.summary import activation_bytes, describe, forward_gflops
from tests.helpers.paths import ROOT


def test_the_summary_of_a_recipe(capsys):
    config = ROOT / "configs" / "tiny_imagenet.py"
    assert cli.main(["summary", "--config", str(config), "--num-classes", "200"]) == 0
    out = capsys.readouterr().out
    assert "2,680,024 parameters" in out and "\n0.07 GFLOPs forward" in out
    assert "1,220,896 bytes of activations" in out
    assert "3a" in out and "conv_3a_1x1" not in out
    assert cli.main(["summary", "--config", "configs/gone.py"]) == 2
    assert "there is no config configs/gone.py" in capsys.readouterr().err.lower()


def test_the_summary_with_keys_of_the_command_line_from_anywhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes" / "mine.py"
    file.write_text("from recipes.base import get_config\n")
    base = (ROOT / "configs" / "quickstart.py").read_text()
    (tmp_path / "recipes" / "base.py").write_text(base)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("sys.path", list(sys.path))
    command = ["summary", "--config", str(file), "--num-classes", "10"]
    assert cli.main(command) == 0
    small = capsys.readouterr().out
    assert cli.main([*command, "--config.image_size=96", "--config.model.width", "0.5"]) == 0
    assert (large := capsys.readouterr().out) != small and "96" in large
    for flag, message in [
        ("--config.model.widht=1", "Did you mean --config.model.width=1?"),
        ("--config.data.mirror=yes", "config.data.mirror is 'yes'. Use True or False."),
        ("--config.image_size=64@0.x", "config.image_size"),
        ("--width=1", "--width=1 is not a flag of this command. Use --config.KEY=VALUE."),
    ]:
        assert cli.main([*command, flag]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["summary", "--config", str(ROOT / "configs" / "__init__.py")]) == 2


@pytest.mark.parametrize("remat", ["none", "conv", "block"])
def test_the_summary_of_a_network_that_recomputes(remat):
    network = build({"width": 0.125, "revision": "symbol2016"}, 7).with_remat(remat)
    blocks, layers = (describe(network, 64, layers=layers) for layers in (False, True))
    assert [line.split()[0] for line in blocks.splitlines()[1:13]] == [
        "stem", "3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "head",
    ]  # fmt: skip
    assert "conv_5b_double_3x3_1" in layers
    assert blocks.splitlines()[-3:] == layers.splitlines()[-3:]


def test_operations_with_and_without_padding():
    network = build({}, 21841)
    counted = forward_gflops(network, 224)
    padded = sum(2 * layer.multiply_adds for layer in network.layers(224)) / 1e9
    assert counted / 2 == pytest.approx(3.2875, abs=0.0001)  # 1e9 multiply-adds
    assert padded / 2 == pytest.approx(3.42, abs=0.01)
    assert activation_bytes(network, 224) > 0
