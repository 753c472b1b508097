"""Make the vendored tables in `tables/` from published packages. Equal sources give equal bytes.

pip download --no-deps timm==1.0.31
pip install wordfreq==3.1.1
apt-get download wordnet-base && dpkg -x wordnet-base_*.deb .
wget https://raw.githubusercontent.com/pertusa/InceptionBN-21K-for-Caffe/master/synset.txt
python -m i21k.wordnet.make_tables timm-*.whl usr/share/wordnet synset.txt
"""

import hashlib
import importlib
import lzma
import math
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from i21k.errors import UserError

TABLES = Path(__file__).parent / "tables"

# Name of a class list, its letter in the table, its file in timm's wheel, SHA-256 of that file.
SORTED_LISTS = (
    (
        "fall11",
        "f",
        "imagenet22k_synsets.txt",
        "0ae24538751973797b29d8dec412b2bdc61bc4ec3ecd081eba0735804236bbd2",
    ),
    (
        "ilsvrc2012",
        "i",
        "imagenet_synsets.txt",
        "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15",
    ),
    (
        "goog21k",
        "g",
        "imagenet21k_goog_synsets.txt",
        "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2",
    ),
    (
        "miil11k",
        "m",
        "imagenet21k_miil_synsets.txt",
        "cd76d977daaa2f13a4a91fca0f53713f2f29675308d4ce0f0ee0e5b07a3164c6",
    ),
    (
        "miil10k",
        "w",
        "imagenet21k_miil_w21_synsets.txt",
        "f49dde3d69946b8635586432f34f35985f807d168286ce5fde746aac3a7d94c8",
    ),
    (
        "in12k",
        "t",
        "imagenet12k_synsets.txt",
        "f6483e79f18a9b670d43d915ddba40bbcaf82cfc4e92a07bd44057b9d44935f3",
    ),
)
SYNSET_TXT = "cb569e20d85f7852695475e4ad1c84279315fd9106408c5cb6da2c0e152a4ef6"
DATA_NOUN = "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"
INDEX_FILES = {
    "noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
    "verb": "e2ac24816c3a8289dcb72aaa9cf8db81fdf25ec34d792bfc96ac5b7a20c8b4ae",
    "adj": "c9865d7b4d1f805bdef82ccdcea5282436e23083e6f6f1b33e716327c4eda810",
    "adv": "6f5465ed5758fe9c8a2f7ec17b1300f3aa875756c70ff7cba162f7e71bcf88ea",
}
CNTLIST_REV = "a198580b8f705fa02797bba8b13e5cbe4a9f9f40cb1697e774c7fc6a5865b035"


def _checked(content: bytes, sha256: str, name: str) -> str:
    if (got := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(
            f"{name} has SHA-256 {got}, expected {sha256}. Use the release named at the top of"
            f" {Path(__file__).name}."
        )
    return content.decode()


def _write(name: str, rows: Iterable[str]) -> None:
    content = lzma.compress(
        "".join(f"{row}\n" for row in rows).encode(), preset=9 | lzma.PRESET_EXTREME
    )
    (TABLES / name).write_bytes(content)
    print(f"{TABLES / name}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


def make_class_lists(timm_wheel: Path, synset_txt: Path) -> list[str]:
    """Write `class_lists.tsv.xz` and return its ids.

    Columns: id, rank in the order of the released model, letters of the lists with this class.
    """
    letters: dict[str, str] = {}
    with zipfile.ZipFile(timm_wheel) as wheel:
        for _, letter, file, sha256 in SORTED_LISTS:
            ids = _checked(wheel.read(f"timm/data/_info/{file}"), sha256, file).split()
            assert ids == sorted(ids)  # otherwise a letter would not be enough to make the list
            for class_id in ids:
                letters[class_id] = letters.get(class_id, "") + letter
    released = [
        line.split()[0]
        for line in _checked(synset_txt.read_bytes(), SYNSET_TXT, str(synset_txt)).splitlines()
    ]
    rank = {class_id: str(k) for k, class_id in enumerate(released)}
    _write(
        "class_lists.tsv.xz",
        (
            f"{class_id}\t{rank.get(class_id, '')}\t{letters[class_id]}"
            for class_id in sorted(letters)
        ),
    )
    return sorted(letters)


def make_wordnet(dictionary: Path, class_ids: list[str]) -> None:
    """Write `wordnet.tsv.xz`, `familiarity.txt.xz` and WordNet's licence.

    `wordnet.tsv.xz` has the classes and all synsets above them, parents first. Columns: id,
    lexicographer file (`lexnames(5WN)`), count in SemCor, ids of the parents, lemmas with ", "
    between them, gloss. Parents are hypernyms and instance hypernyms. The count is summed over
    the lemmas. Formats: `wndb(5WN)`, `senseidx(5WN)`, `cntlist(5WN)`.

    `familiarity.txt.xz` has one number for each line of `wordnet.tsv.xz`: how often English uses
    the first lemma with this meaning, as 100 log10 of the uses in a billion words. That is the
    word's frequency from wordfreq times the share of this meaning, (count + 1) / (counts of all
    meanings + number of meanings), with SemCor's counts over all parts of speech.
    """
    wordfreq = importlib.import_module("wordfreq")  # needed only here
    num_meanings: dict[str, int] = {}
    for part, sha256 in INDEX_FILES.items():
        file_name = f"index.{part}"
        index = _checked((dictionary / file_name).read_bytes(), sha256, file_name)
        for line in index.splitlines():
            if not line.startswith("  "):
                lemma, _, num, *_ = line.split()
                num_meanings[lemma] = num_meanings.get(lemma, 0) + int(num)
    data = _checked((dictionary / "data.noun").read_bytes(), DATA_NOUN, "data.noun")
    counts = dict(
        line.split()[::2]
        for line in _checked(
            (dictionary / "cntlist.rev").read_bytes(), CNTLIST_REV, "cntlist.rev"
        ).splitlines()
    )
    total_counts: dict[str, int] = {}
    for key, uses in counts.items():
        lemma = key.split("%")[0]
        total_counts[lemma] = total_counts.get(lemma, 0) + int(uses)
    familiarity: dict[str, int] = {}
    rows: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    licence = []
    for line in data.splitlines():
        if line.startswith("  "):
            licence.append(re.sub(r"^  \d+ ?", "", line).rstrip())
            continue
        fields, gloss = line.split(" | ")
        offset, file, _, num_lemmas, *rest = fields.split()
        after = 2 * int(num_lemmas, 16)
        lemmas, lex_ids = rest[:after:2], rest[1:after:2]
        symbols, targets = rest[after + 1 :: 4], rest[after + 2 :: 4]  # of the pointers
        parents[f"n{offset}"] = [
            f"n{t}" for s, t in zip(symbols, targets, strict=False) if s in ("@", "@i")
        ]
        keys = [
            f"{lemma.lower()}%1:{file}:{int(lex_id, 16):02d}::"
            for lemma, lex_id in zip(lemmas, lex_ids, strict=True)
        ]
        count = sum(int(counts.get(key, 0)) for key in keys)
        first = lemmas[0].lower()
        share = (int(counts.get(keys[0], 0)) + 1) / (
            total_counts.get(first, 0) + num_meanings[first]
        )
        frequency = wordfreq.word_frequency(lemmas[0].replace("_", " "), "en")
        familiarity[f"n{offset}"] = round(100 * (math.log10(max(frequency, 1e-9) * share) + 9))
        names = ", ".join(lemma.replace("_", " ") for lemma in lemmas)
        rows[f"n{offset}"] = (
            f"n{offset}\t{int(file)}\t{count}\t{' '.join(parents[f'n{offset}'])}\t{names}"
            f"\t{gloss.strip()}"
        )

    depth: dict[str, int] = {}

    def visit(synset: str) -> int:  # longest way up
        if synset not in depth:
            depth[synset] = 1 + max((visit(parent) for parent in parents[synset]), default=-1)
        return depth[synset]

    for class_id in class_ids:
        visit(class_id)
    synsets = sorted(depth, key=lambda synset: (depth[synset], synset))
    _write("wordnet.tsv.xz", (rows[synset] for synset in synsets))
    _write("familiarity.txt.xz", (str(familiarity[synset]) for synset in synsets))
    (TABLES / "LICENSE.WordNet").write_text("\n".join(licence).strip() + "\n")


if __name__ == "__main__":
    wheel, dictionary, synset_txt = map(Path, sys.argv[1:])
    make_wordnet(dictionary, make_class_lists(wheel, synset_txt))
