"""Images in the report: the most confident mistakes, and the least certain right answers."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from i21k.data.format.readers import RecordReader
from i21k.data.format.records import decode_example
from i21k.data.format.splits import Split, open_split
from i21k.errors import UserError
from i21k.evaluation.predictions import Predictions
from i21k.evaluation.ranks import NEVER
from i21k.images.decode import read_size
from i21k.look.html import escape
from i21k.look.parts import card, cards, class_name, percent
from i21k.wordnet.taxonomy import wordnet

NUM_IMAGES = 24  # our choice: of each kind
THUMBNAIL_PX = 240  # our choice: twice the width on the page, for dense screens
_QUALITY = 78


def find_split(data: Path | None, summary: dict[str, object]) -> Split | None:
    """Return the split that was evaluated; None if it is missing or has other images."""
    directory = Path(str(summary["data"])) if data is None else data
    try:
        split = open_split(directory, str(summary["split"]))
    except UserError:
        if data is not None:
            raise
        return None
    return split if split.fingerprint == summary.get("fingerprint") else None


def thumbnail(image: bytes, side_px: int = THUMBNAIL_PX) -> bytes | None:
    """Return a small JPEG of an encoded image; None if it cannot be read."""
    try:
        read_size(image)  # refuses what is too large to decode
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (side_px * 2, side_px * 2))
            small = opened.convert("RGB")
    except (ValueError, OSError, SyntaxError):
        return None
    small.thumbnail((side_px, side_px))
    target = io.BytesIO()
    small.save(target, "JPEG", quality=_QUALITY, optimize=True)
    return target.getvalue()


def confident_mistakes(predictions: Predictions, split: Split | None) -> str:
    """Return the wrong answers of the highest probability."""
    wrong = np.flatnonzero(~predictions.right & (predictions.answers[:, 0] >= 0))
    chosen = wrong[np.argsort(-predictions.probabilities[wrong, 0], kind="stable")]
    return _cards(predictions, split, chosen[:NUM_IMAGES]) if len(chosen) else "<p>None.</p>\n"


def uncertain_hits(predictions: Predictions, split: Split | None) -> str:
    """Return the right answers of the lowest probability."""
    right = np.flatnonzero(predictions.right)
    chosen = right[np.argsort(predictions.probabilities[right, 0], kind="stable")]
    return _cards(predictions, split, chosen[:NUM_IMAGES]) if len(chosen) else "<p>None.</p>\n"


def _cards(predictions: Predictions, split: Split | None, chosen: np.ndarray) -> str:
    reader = None if split is None else RecordReader(split)
    return cards(_card(predictions, reader, number) for number in chosen.tolist())


def _card(predictions: Predictions, reader: RecordReader | None, number: int) -> str:
    ids = predictions.classes.ids
    truth, answer = ids[predictions.truths[number]], ids[predictions.answers[number, 0]]
    probability = float(predictions.probabilities[number, 0])
    file = predictions.files[number] or f"record {predictions.records[number]}"
    names = wordnet().name(truth), wordnet().name(answer)
    if predictions.right[number]:
        second = _second(predictions, number)
        caption = f'<b class="right">{class_name(names[0], truth)}</b> {percent(probability)}'
        caption += f'<br><span class="soft">{second}</span>' if second else ""
    else:
        caption = (
            f'<b class="wrong">{class_name(names[1], answer)}</b> {percent(probability)}<br>'
            f'<span class="soft">truth: {class_name(names[0], truth)}'
            f"{_place(predictions, number)}{_kinship(truth, answer)}</span>"
            f"{_hedged(predictions, number)}"
        )
    caption += f'<span class="file" title="{escape(file)}">{escape(file)}</span>'
    description = f"{names[0]}, answered as {names[1]} with probability {probability:.1%}"
    return card(_image(reader, int(predictions.records[number])), caption, description)


def _second(predictions: Predictions, number: int) -> str:
    """Return the second answer of an image as HTML."""
    if predictions.answers.shape[1] < 2 or (label := int(predictions.answers[number, 1])) < 0:
        return ""
    class_id = predictions.classes.ids[label]
    probability = percent(float(predictions.probabilities[number, 1]))
    return f"then {class_name(wordnet().name(class_id), class_id)} {probability}"


def _place(predictions: Predictions, number: int) -> str:
    """Return the rank and probability of the truth of an image."""
    rank = int(predictions.ranks[number])
    if rank >= NEVER:
        return ", not a class of the model"
    if rank <= predictions.answers.shape[1]:
        return f", answer {rank} with {percent(float(predictions.probabilities[number, rank - 1]))}"
    return f", answer {rank:,}"


def _hedged(predictions: Predictions, number: int) -> str:
    if (found := predictions.hedges[number]) is None:
        return ""
    synset, probability = found
    name = class_name(wordnet().name(synset), synset)
    return f'<br><span class="soft">hedged: {name} {percent(probability)}</span>'


def _kinship(truth: str, answer: str) -> str:
    taxonomy = wordnet()
    if truth not in taxonomy or answer not in taxonomy:
        return ""
    above = taxonomy.ancestors
    a, b = taxonomy.number_of[truth], taxonomy.number_of[answer]
    if a in above[b]:
        return "; the answer is a kind of it"
    return "; it is a kind of the answer" if b in above[a] else ""


def _image(reader: RecordReader | None, record: int) -> bytes | None:
    if reader is None:
        return None
    try:
        image, _ = decode_example(reader[record])
    except UserError:
        return None
    return thumbnail(image)
