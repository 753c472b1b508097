"""Images drawn from a seed: 25 synsets of WordNet, for the quick start and the tests.

They may be shared, need no download and still look like something.
"""

from i21k.data.synthetic.classes import LOOKS, SYNSETS, Look
from i21k.data.synthetic.drawing import draw
from i21k.data.synthetic.frame import Frame
from i21k.data.synthetic.packing import pack_if_missing, write_source

__all__ = ["LOOKS", "SYNSETS", "Frame", "Look", "draw", "pack_if_missing", "write_source"]
