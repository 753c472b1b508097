"""The taxonomy and class lists against numbers counted from WordNet and timm without this code."""

import collections
import hashlib
import importlib.resources
from dataclasses import replace

import numpy as np
import pytest

from i21k.labels import ClassList
from i21k.wordnet.class_lists import NAMES, columns, convert, named
from i21k.wordnet.taxonomy import Synset, Taxonomy, wordnet

COUNTS = {
    "fall11": 21841,
    "ilsvrc2012": 1000,
    "goog21k": 21843,
    "ms22k": 21842,
    "miil11k": 11221,
    "miil10k": 10450,
    "in12k": 11821,
    "released2015": 21841,
}


def closure(ids) -> set[int]:
    """Numbers of some synsets and all above them, by walking up."""
    w, seen, todo = wordnet(), set(), list(ids)
    while todo:
        synset = todo.pop()
        if w.number_of[synset] not in seen:
            seen.add(w.number_of[synset])
            todo += w[synset].parents
    return seen


def test_tables_are_package_data_with_their_licence():
    tables = importlib.resources.files("i21k.wordnet") / "tables"
    names = {entry.name for entry in tables.iterdir()}
    assert names == {
        "wordnet.tsv.xz",
        "familiarity.txt.xz",
        "class_lists.tsv.xz",
        "LICENSE.WordNet",
        "README.md",
    }
    assert (
        "WordNet 3.0 Copyright 2006 by Princeton University"
        in (tables / "LICENSE.WordNet").read_text()
    )
    assert sum(len((tables / name).read_bytes()) for name in names) < 1_000_000


def test_fall11_in_wordnet():
    w, fall11 = wordnet(), named("fall11")
    above = closure(fall11.ids)
    assert len(above) == 23546  # 1,705 of them no classes
    assert len(w) == 23548  # with bleacher and picture of goog21k, whose ancestors fall11 has
    assert collections.Counter(len(w[i].parents) for i in fall11.ids) == {1: 21388, 2: 448, 3: 5}
    assert sum(len(w.ancestors[w.number_of[i]]) for i in fall11.ids) == 253390
    files = collections.Counter(w[i].file for i in fall11.ids)
    assert [
        files[f] for f in ("artifact", "plant", "animal", "person", "food", "object", "act")
    ] == [
        7856,
        4330,
        3955,
        2843,
        1851,
        238,
        171,
    ]
    assert sum(w.number_of["n00007846"] in w.ancestors[w.number_of[i]] for i in fall11.ids) == 2836
    counts = [w[i].count for i in fall11.ids]
    assert (sum(c > 0 for c in counts), sum(c >= 5 for c in counts)) == (2831, 679)


def test_ancestors_are_those_found_by_walking_up():
    w = wordnet()
    for n in np.random.default_rng(0).choice(len(w), 300, replace=False):
        assert w.ancestors[n] == closure([w.synsets[n].id])


def test_a_synset_says_what_it_is():
    tench = wordnet()["n01440764"]
    assert tench.lemmas == ("tench", "Tinca tinca")
    assert (
        tench.gloss
        == "freshwater dace-like game fish of Europe and western Asia noted for ability to "
        "survive outside water"
    )
    assert tench.file == "animal" and [wordnet()[p].lemmas[0] for p in tench.parents] == [
        "cyprinid"
    ]
    assert wordnet()["n13104059"].count == 107  # tree


def test_display_names_are_unique():
    w, fall11 = wordnet(), named("fall11")
    first = collections.Counter(w[i].lemmas[0].casefold() for i in fall11.ids)
    assert (sum(c > 1 for c in first.values()), sum(c for c in first.values() if c > 1)) == (
        1470,
        3243,
    )
    assert len({name.casefold() for name in w.names}) == len(w)
    assert all(
        w.find(name) is synset for name, synset in zip(w.names[::7], w.synsets[::7], strict=True)
    )
    cranes = sorted(name for name in w.names if name.startswith("crane ("))
    assert cranes == ["crane (lifting device)", "crane (wading bird)"]
    assert w.name("n13104059") == "tree" and w.name("n13912260") == "tree (plane figure)"
    assert w.name("my class") == "my class"
    by_id = sum(
        name.endswith(f" ({synset.id})") for name, synset in zip(w.names, w.synsets, strict=True)
    )
    assert by_id == 100  # where no word tells apart


def test_display_names_with_and_without_a_way_to_tell_apart():
    def names(*synsets: Synset) -> tuple[str, ...]:
        return Taxonomy((Synset("r", lemmas=("root",)), *synsets)).names[1:]

    a, b = Synset("a", ("r",), ("jack",)), Synset("b", ("r",), ("Jack", "knave"))
    assert names(a, b) == ("jack (a)", "Jack (knave)")
    assert names(a, replace(b, count=3)) == ("jack (root)", "Jack")
    assert names(replace(a, count=3), replace(b, count=3)) == ("jack (a)", "Jack (knave)")
    assert names(a, replace(b, parents=("a",), lemmas=("jack",))) == ("jack (a)", "jack (b)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "banana",
            r"'banana' is the name of 2 synsets\. Write one of n12352287 \(banana \(herb\)\), n",
        ),
        (
            "suspension brige",
            r"no synset is called 'suspension brige'\. Did you mean 'suspension bridge'",
        ),
        ("n02084070", r"no synset is called 'n02084070'\. Did you mean 'n02084071'"),
        ("#", r"no synset is called '#'\. Write an id such as n02084071"),
    ],
)
def test_refuses_names_that_mean_nothing_or_too_much(text, message):
    with pytest.raises(ValueError, match=message):
        wordnet().find(text)


@pytest.mark.parametrize(
    ("synsets", "message"),
    [
        ((Synset("a"), Synset("b")), r"synset b has parents \(\)\. Give every synset"),
        ((Synset("a"), Synset("b", ("c",)), Synset("c", ("a",))), r"synset b has parents \('c',\)"),
        ((Synset("a", ("a",)),), r"synset a has parents \('a',\)"),
        ((Synset("a"), Synset("a", ("a",))), "a taxonomy has 2 synsets with 1 ids"),
        ((), "a taxonomy has 0 synsets"),
    ],
)
def test_refuses_what_is_no_taxonomy(synsets, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy(synsets)


def test_named_class_lists():
    assert {name: len(named(name)) for name in NAMES} == COUNTS
    for name in set(NAMES) - {"released2015", "ms22k"}:
        assert list(named(name).ids) == sorted(named(name).ids)
    assert all(class_id in wordnet() for name in NAMES for class_id in named(name).ids)


# Hashes of timm's own lists and index maps (timm 1.0.31, timm/data/_info), which are one number a
# line.
@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("fall11", "0ae24538751973797b29d8dec412b2bdc61bc4ec3ecd081eba0735804236bbd2"),
        ("ilsvrc2012", "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"),
        ("goog21k", "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2"),
        ("ms22k", "f2c7ac47500e1d1d70432d3cb2e2b2187c6880125439832bf4b4038f716ca278"),
        ("miil11k", "cd76d977daaa2f13a4a91fca0f53713f2f29675308d4ce0f0ee0e5b07a3164c6"),
        ("miil10k", "f49dde3d69946b8635586432f34f35985f807d168286ce5fde746aac3a7d94c8"),
        ("in12k", "f6483e79f18a9b670d43d915ddba40bbcaf82cfc4e92a07bd44057b9d44935f3"),
    ],
)
def test_class_lists_are_those_of_timm(name, sha256):
    assert named(name).hash == sha256


@pytest.mark.parametrize(
    ("source", "target", "sha256"),
    [
        ("goog21k", "fall11", "86a76780366f807a9f804617ea244ca1bf5817414d0330cf11ba29e285c1cc57"),
        ("fall11", "in12k", "d3ffaab48064bab1ea7ce1626c72f5a011ee4503cac612b90ee1da0d147c8e87"),
    ],
)
def test_columns_are_the_index_maps_of_timm(source, target, sha256):
    of = columns(named(source), named(target))
    assert hashlib.sha256("".join(f"{k}\n" for k in of).encode()).hexdigest() == sha256


def test_released_order_is_by_size():
    released = named("released2015")
    assert wordnet().name(released.ids[0]) == "Yorkshire terrier"
    assert sorted(released.ids) == list(named("fall11").ids)
    assert sorted(released.ids[:11221]) == list(
        named("miil11k").ids
    )  # those with more than 500 images
    assert [
        released.label_of[i]
        for i in ("n09468604", "n09332890", "n04366367", "n09193705", "n09428293")
    ] == [1521, 308, 2321, 71, 7]


def test_conversion_keeps_the_logit_of_a_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 21841)).astype(np.float32)
    fall11, released = named("fall11"), named("released2015")
    there = convert(logits, fall11, released)
    np.testing.assert_array_equal(
        there[..., released.label_of["n02084071"]], logits[..., fall11.label_of["n02084071"]]
    )
    np.testing.assert_array_equal(convert(there, released, fall11), logits)
    thousand = convert(logits[0, 0], fall11, named("ilsvrc2012"), lossy=True)
    assert thousand.dtype == np.float32
    assert [named("ilsvrc2012").ids[k] for k in np.flatnonzero(np.isneginf(thousand))] == [
        "n04399382"
    ]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            named("fall11"),
            named("ilsvrc2012"),
            r"drops 20,842 classes: n00004475 .* has no logit for 1 class: n04399382 \(teddy\)\. ",
        ),
        (
            named("ilsvrc2012"),
            ClassList((*named("ilsvrc2012").ids, "mine")),
            r"of 1,000 to 1,001 classes has no logit for 1 class: mine\. Use lossy=True to allow",
        ),
    ],
)
def test_refuses_conversions_that_lose_classes(source, target, message):
    with pytest.raises(ValueError, match=message):
        convert(np.zeros(len(source)), source, target)


def test_refuses_logits_of_another_list():
    with pytest.raises(
        ValueError,
        match=r"logits are float64\[4, 999\], expected floats with the 1,000 classes",
    ):
        convert(np.zeros((4, 999)), named("ilsvrc2012"), named("fall11"), lossy=True)
