import pytest

from i21k.labels import ClassList
from i21k.wordnet.class_lists import named


def test_label_and_hash_follow_the_order():
    a, b = ClassList(("x", "y")), ClassList(("y", "x"))
    assert a.label_of == {"x": 0, "y": 1}
    assert a.hash != b.hash
    assert a.hash == ClassList(("x", "y")).hash
    assert ClassList.sorted(["b", "a", "b"]).ids == ("a", "b")


def test_reads_what_it_writes_and_synset_files(tmp_path):
    classes = ClassList(("n00004475", "apple pie"))
    classes.write(tmp_path / "classes.txt")
    assert ClassList.read(tmp_path / "classes.txt") == classes
    (tmp_path / "synset.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n\n")
    assert ClassList.read(tmp_path / "synset.txt").ids == ("n01440764", "n01443537")


def test_the_vendored_list_is_that_of_fall_2011():
    classes = named("fall11")
    assert len(classes) == 21841
    assert classes.ids[0] == "n00004475"
    assert list(classes.ids) == sorted(classes.ids)
    thousand = named("ilsvrc2012")
    assert len(thousand) == 1000
    assert set(thousand.ids) - set(classes.ids) == {"n04399382"}  # teddy


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((), "empty"),
        (("a", "a"), "'a' is twice"),
        (("a", ""), "class 1 of a class list is ''"),
        ((" a",), "without spaces"),
    ],
)
def test_refuses_bad_lists(ids, message):
    with pytest.raises(ValueError, match=message):
        ClassList(ids)


def test_refuses_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read"):
        ClassList.read(tmp_path / "gone.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="binary cannot be read"):
        ClassList.read(tmp_path / "binary")
    with pytest.raises(ValueError, match="Use one of fall11, ilsvrc2012"):
        named("fall12")


def test_says_how_lists_differ():
    a = ClassList(("a", "b", "c"))
    assert a.difference(a) == ""
    assert "another order, first at label 0: a against b" in a.difference(
        ClassList(("b", "a", "c"))
    )
    assert (
        "3 against 2 classes; 2 only in the first, such as a; 1 only in the second, such as d"
        in a.difference(ClassList(("c", "d")))
    )


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"\xef\xbb\xbfn01440764\r\nn01443537\r\n", ("n01440764", "n01443537")),
        (b"n01440764,tench\n\n\nn01443537: goldfish\n", ("n01440764", "n01443537")),
        (b"apple pie\tdessert\nbanana\n", ("apple pie", "banana")),
        ("猫\nKäfer\n".encode(), ("猫", "Käfer")),
        (b"n01440764\nbackground\n", ("n01440764", "background")),
        ("cat\r\ndog\r\n".encode("utf-16"), ("cat", "dog")),
        (b"cat\rdog\r", ("cat", "dog")),
        (
            b"BMW M3 2012\nAudi TT 2011\nAcura RL 2012\n",
            ("BMW M3 2012", "Audi TT 2011", "Acura RL 2012"),
        ),
        (b"Formula 1\nArea 51\n", ("Formula 1", "Area 51")),
        (b"5 series\n3 series\n7 series\n", ("5 series", "3 series", "7 series")),
        (b"3 series\n", ("3 series",)),
        (b"Formula 1\tcars\nArea 2\tgame\n", ("Formula 1", "Area 2")),
        (b"1 series\tBMW\n2 series\tBMW\n", ("1 series", "2 series")),
        (b'[{"id": "Formula 1"}, {"id": "Area 2"}]', ("Formula 1", "Area 2")),
        (b'[\n {"id": "n1", "name": "a"},\n {"id": "n2", "name": "b"}\n]\n', ("n1", "n2")),
    ],
)
def test_reads_lists_of_the_field(tmp_path, content, ids):
    (tmp_path / "classes.txt").write_bytes(content)
    assert ClassList.read(tmp_path / "classes.txt").ids == ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\na\n", r"line 4 of class list .* is class 'a', as is line 1"),
        (b"0 cat\n1 dog\n", r"line 1 of class list .* is '0 cat'; expected a class id"),
        (
            b"1 cat\n0 dog\n",
            r"line 1 .*a number and an id. Remove the numbers, or write lines of ID",
        ),
        (b"1\tcat\n2\tdog\n", "line 1 .*a number and an id"),
        (b"0 cat\n", "line 1 .*a number and an id"),
        (b"417 n01440764\n3 n01443537\n", "line 1 .*a number and an id"),
        (
            b"cat 0\ndog 1\n",
            "line 1 .*an id and a number. Remove the numbers, or write lines of ID",
        ),
        (b"cat\t2\ndog\t1\n", "line 1 .*an id and a number"),
        (b"", "empty"),
        (b"wnid name\nn01440764 tench\n", r"line 1 .* is 'wnid name'; expected a synset id"),
        (b"a\xff\n", "cannot be read .* in UTF-8. Save it"),
        (b'{"0": "cat"}', "line 1 .* as of JSON"),
        (b'[{"name": "cat"}]', "line 1 .* as of JSON"),
        (b'[{"id": "a"}, {"id": "a"}]', "line 2 of class list .* is class 'a', as is line 1"),
        (b"# mine\ncat\n", "line 1 .* as of a comment"),
    ],
)
def test_refuses_lists_by_line(tmp_path, content, message):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ClassList.read(tmp_path / "classes.txt")
