"""The optimizer of a recipe: schedule, groups of parameters, and updates by Optax."""

from i21k.train.optimizer.groups import Factors, FactorsOf, Group, group_of
from i21k.train.optimizer.make import make_optimizer
from i21k.train.optimizer.schedules import make_schedule

__all__ = ["Factors", "FactorsOf", "Group", "group_of", "make_optimizer", "make_schedule"]
