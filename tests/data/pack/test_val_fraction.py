"""`--val 5%`: images go to the validation split by their content."""

from pathlib import Path

import pytest

from i21k.errors import UserError
from tests.helpers.packing import encoded, photo, records_of, run


def write(root: Path, seeds: range, per_class: int) -> Path:
    for seed in seeds:
        path = root / f"class{seed // per_class % 2}" / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(seed=seed)))
    return root


def names(out: Path, split: str) -> set[str]:
    return {name for name, _, _ in records_of(out, split)}


def test_share_of_every_class_and_later_images_move_none(tmp_path: Path) -> None:
    source = write(tmp_path / "s", range(200), 50)
    report = run(source, tmp_path / "a", val_fraction=0.2)
    val = names(tmp_path / "a", "val")
    assert list(report.splits) == ["train", "val"]
    for class_id in ("class0", "class1"):
        assert 8 <= sum(name.startswith(class_id) for name in val) <= 34  # 20 expected
    write(source, range(200, 260), 10)
    (source / "class0" / "0_again.jpg").write_bytes(encoded(photo(seed=0)))
    run(source, tmp_path / "b", val_fraction=0.2)
    assert val == {
        n for n in names(tmp_path / "b", "val") if n in val | names(tmp_path / "a", "train")
    }
    pair = {"class0/0.jpg", "class0/0_again.jpg"}
    assert len(pair & names(tmp_path / "b", "val")) in (0, 2)  # equal bytes stay together


@pytest.mark.parametrize("num_workers", [1, 2])
def test_resumes_and_is_left_alone(tmp_path: Path, num_workers: int) -> None:
    from i21k.data.pack.pack import PackOptions, pack
    from tests.helpers.packing import content_of, interrupt_after

    source = write(tmp_path / "s", range(60), 10)
    options = PackOptions(val_fraction=0.2, num_shards=2)
    pack(source, tmp_path / "a", options, num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "b", options, num_workers=1, on_progress=interrupt_after(8))
    pack(source, tmp_path / "b", options, num_workers=num_workers)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    assert pack(source, tmp_path / "b", options, num_workers=1).already_complete


def test_refusals(tmp_path: Path) -> None:
    source = write(tmp_path / "s", range(4), 2)
    with pytest.raises(UserError, match="--val 0.001% chooses none of the images|chooses none"):
        run(source, tmp_path / "a", val_fraction=0.00001)
    with pytest.raises(UserError, match=r"val is 5; expected a share such as 0.05 or 5%"):
        run(source, tmp_path / "a", val_fraction=5)
    with pytest.raises(UserError, match="--val and --val-per-class are both given"):
        run(source, tmp_path / "a", val_fraction=0.1, val_per_class=1)
