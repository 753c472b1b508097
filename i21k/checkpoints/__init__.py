"""Checkpoints that are whole or absent.

Every array has a digest that is verified on restore, because Orbax restores flipped bits silently.
The newest intact checkpoint is used, and the user is warned of each damaged one. Several processes
hold the same state: each reads, only the first one writes, and none waits for another in here.
"""

from i21k.checkpoints.checkpoint import Checkpoint
from i21k.checkpoints.directory import Checkpoints, NotFiniteError, Which
from i21k.checkpoints.integrity import FormatError

__all__ = ["Checkpoint", "Checkpoints", "FormatError", "NotFiniteError", "Which"]
