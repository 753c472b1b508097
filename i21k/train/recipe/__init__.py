"""The recipe of a run: its keys are in `schema.py`, and everything else follows from them."""

from i21k.train.recipe.changes import inexact_keys as inexact_keys
from i21k.train.recipe.changes import keys_that_may_change as keys_that_may_change
from i21k.train.recipe.changes import keys_that_may_differ as keys_that_may_differ
from i21k.train.recipe.describe import KeyInfo as KeyInfo
from i21k.train.recipe.describe import describe_keys as describe_keys
from i21k.train.recipe.describe import markdown_table as markdown_table
from i21k.train.recipe.fields import flat as flat
from i21k.train.recipe.forms import EvaluationSet as EvaluationSet
from i21k.train.recipe.forms import read_sets as read_sets
from i21k.train.recipe.forms import read_steps as read_steps
from i21k.train.recipe.old import is_renamed as is_renamed
from i21k.train.recipe.reading import complete as complete
from i21k.train.recipe.reading import default_config as default_config
from i21k.train.recipe.reading import from_stored as from_stored
from i21k.train.recipe.reading import parse as parse
from i21k.train.recipe.reading import stored_values as stored_values
from i21k.train.recipe.reading import to_config as to_config
from i21k.train.recipe.schema import AugmentRecipe as AugmentRecipe
from i21k.train.recipe.schema import DataRecipe as DataRecipe
from i21k.train.recipe.schema import EmaRecipe as EmaRecipe
from i21k.train.recipe.schema import EvaluationRecipe as EvaluationRecipe
from i21k.train.recipe.schema import LogRecipe as LogRecipe
from i21k.train.recipe.schema import LossRecipe as LossRecipe
from i21k.train.recipe.schema import ModelRecipe as ModelRecipe
from i21k.train.recipe.schema import OptimizerRecipe as OptimizerRecipe
from i21k.train.recipe.schema import Recipe as Recipe
