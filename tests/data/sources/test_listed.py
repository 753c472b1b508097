"""Splits and classes of a list of files on standard input."""

import pytest

from i21k.data.sources.listed import standard_input_sources

# Paths, and the splits with their classes.
LISTS: dict[str, tuple[str, dict[str, str]]] = {
    "class named train below dev": (
        "/home/dev/vehicles/train/1.jpg /home/dev/vehicles/car/2.jpg",
        {"": "car train"},
    ),
    "class named train, file named train": (
        "pets/dev/train/1.jpg pets/dev/x/train pets/eval/car/train.jpg",
        {"": "car train x"},
    ),
    "home of a user": ("/home/test/pets/cat/1.jpg /home/test/pets/dog/2.jpg", {"": "cat dog"}),
    "splits below it": (
        "/home/test/pets/train/cat/1.jpg /home/test/pets/val/dog/2.jpg",
        {"train": "cat", "val": "dog"},
    ),
    "names that are only clear beside train": (
        "/x/train/cat/1.jpg /x/train/dog/1.jpg /x/dev/cat/2.jpg",
        {"train": "cat dog", "val": "cat"},
    ),
    "without train": ("/x/dev/cat/1.jpg /x/eval/dog/2.jpg", {"": "cat dog"}),
    "one split": ("/x/val/cat/1.jpg /x/val/dog/2.jpg", {"val": "cat dog"}),
    "one split of synsets": (
        "/x/val/n00000001/a/1.jpg /x/val/n00000002/2.jpg",
        {"val": "n00000001 n00000002"},
    ),
    "dev alone": ("/x/dev/cat/1.jpg /x/dev/dog/2.jpg", {"": "cat dog"}),
    "folders in the split": (
        "train/a/cat/1.jpg train/b/dog/2.jpg val/b/dog/3.jpg",
        {"train": "cat dog", "val": "dog"},
    ),
    "one file outside": ("train/cat/1.jpg val/cat/2.jpg more/dog/3.jpg", {"": "cat dog"}),
}


@pytest.mark.parametrize("kind", LISTS)
def test_splits_follow_from_folders_below_the_common_ones(kind: str) -> None:
    paths, expected = LISTS[kind]
    sources = standard_input_sources(paths.split(), None)
    assert {s: " ".join(of.list_class_ids() or ()) for s, of in sources.items()} == expected
    assert sum(of.num_files or 0 for of in sources.values()) == len(paths.split())
