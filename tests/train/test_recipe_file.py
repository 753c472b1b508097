from pathlib import Path

import pytest

from i21k.errors import UserError
from i21k.train import recipe_file


def test_a_recipe_without_get_config_is_refused(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"empty\.py has no get_config\(\)"):
        recipe_file.execute(str(file))


@pytest.mark.parametrize(
    ("parameters", "ending", "expected"),
    [("", ":data/x", "file.py alone"), ("data", "", "file.py:ARGUMENT"), ("a, b", ":x", "alone")],
)
def test_arguments_that_a_recipe_does_not_take_are_refused(tmp_path, parameters, ending, expected):
    file = tmp_path / "file.py"
    file.write_text(f"def get_config({parameters}):\n    raise AssertionError\n")
    with pytest.raises(UserError, match="takes other arguments") as error:
        recipe_file.execute(f"{file}{ending}")
    assert str(error.value).endswith(f"{expected}.")


def test_what_a_recipe_raises_is_not_the_user_s_mistake(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return {}['x']\n")
    with pytest.raises(KeyError):
        recipe_file.execute(str(file))


def test_only_an_argument_is_split_off(tmp_path):
    assert recipe_file.split("a/b.py:data/x:runs/y") == (Path("a/b.py"), "data/x:runs/y")
    assert recipe_file.split("a/b.py") == (Path("a/b.py"), None)
    odd = tmp_path / "a.py:b"
    odd.write_text("")
    assert recipe_file.split(str(odd)) == (odd, None)
