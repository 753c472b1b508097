"""The classes that are drawn: a synset, its sketch and its colours.

The real classes are only imitated. Each has a shape, colours and marks, and shares every one of
them with other classes, mostly with those that are near in WordNet: a tennis ball has the seam of a
baseball and the colour of a lemon.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from i21k.data.synthetic import animals, balls, fruit, insects, things
from i21k.data.synthetic.frame import Frame, Sketch

COLOURS = {
    "white": (240, 238, 230),
    "black": (28, 26, 30),
    "grey": (120, 122, 128),
    "brown": (110, 68, 36),
    "tawny": (204, 156, 88),
    "red": (208, 32, 40),
    "orange": (240, 130, 24),
    "yellow": (244, 212, 40),
    "lime": (200, 226, 60),
    "green": (120, 180, 56),
    "dark green": (30, 90, 44),
    "blue": (44, 92, 196),
    "violet": (140, 70, 170),
    "pale blue": (196, 220, 240),
}


class Look(NamedTuple):
    """How a class is drawn."""

    wnid: str
    sketch: Callable[[Frame], Sketch]
    colours: tuple[str, ...]  # of the body and of each mark; `/` separates alternatives
    turn: float = math.pi  # the largest, in radians to either side


TABLE = (
    Look("n07749582", fruit.lemon, ("yellow", "green", "white")),
    Look("n07747607", fruit.orange, ("orange", "brown", "dark green")),
    Look("n07742313", fruit.apple, ("green", "dark green", "brown", "white")),  # Granny Smith
    Look("n07745940", fruit.strawberry, ("red", "yellow", "dark green/green")),
    Look("n07753592", fruit.banana, ("yellow", "brown", "brown")),
    Look("n07756951", fruit.watermelon, ("green/lime", "dark green")),
    Look("n04254680", balls.soccer_ball, ("white", "black")),
    Look("n02802426", balls.basketball, ("orange", "black")),
    Look("n04409515", balls.tennis_ball, ("lime", "white")),
    Look("n02799071", balls.baseball, ("white", "red")),
    Look("n03445777", balls.golf_ball, ("white/yellow", "grey")),
    Look("n02129604", animals.tiger, ("orange", "white", "black"), 0.4),
    Look("n02128385", animals.leopard, ("tawny/yellow", "white", "black"), 0.4),
    Look("n02129165", animals.lion, ("tawny/yellow", "brown", "black"), 0.4),
    Look("n02391049", animals.zebra, ("white", "black"), 0.4),
    Look("n02110341", animals.dalmatian, ("white", "black/brown"), 0.4),
    Look("n02165456", insects.ladybug, ("red/orange", "black", "white")),
    Look("n02206856", insects.bee, ("yellow/orange", "pale blue/white", "black")),
    Look("n02279972", insects.monarch, ("orange", "black", "white")),
    Look("n02280649", insects.cabbage_butterfly, ("white/yellow", "black/grey")),
    Look("n11939491", things.daisy, ("white", "grey", "yellow")),
    Look("n11978233", things.sunflower, ("yellow", "orange", "brown", "black")),
    Look(
        "n06874185", things.traffic_light, ("black/dark green/grey", "red", "orange", "green"), 0.4
    ),
    Look("n02708093", things.analog_clock, ("white/pale blue", "red/brown/blue/green", "black")),
    Look("n04507155", things.umbrella, ("red/blue/violet", "white/pale blue/black", "brown"), 0.6),
)
LOOKS = tuple(sorted(TABLE))
SYNSETS: tuple[str, ...] = tuple(
    look.wnid for look in LOOKS
)  # ascending, as in the class list of the packed data
