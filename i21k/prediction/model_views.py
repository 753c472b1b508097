"""Views of a model's probabilities: from [B, K] to answers."""

import dataclasses
from collections.abc import Callable

from i21k.errors import UserError
from i21k.labels import ClassList
from i21k.prediction.calibration import Calibrations
from i21k.trained import TrainedModel
from i21k.wordnet import class_lists, subsets, views
from i21k.wordnet.hierarchy import Hierarchy
from i21k.wordnet.views import Answers, Probabilities

VIEWS = {
    "top": "the most probable classes",
    "subset": "the most probable of some classes",
    "fold": "the most probable of some synsets, each with all classes below it",
    "diverse": "a few synsets that cover the probability and do not repeat each other",
    "hedge": "one synset, as specific as it can be while right often enough",
    "basic": "everyday names",
}
FOLD_ONTO = "ilsvrc2012"


@dataclasses.dataclass(frozen=True)
class View:
    """A function from probabilities [B, K] to answers, and the name of its kind in `VIEWS`."""

    name: str
    answers: Callable[[Probabilities], Answers]

    def __call__(self, probabilities: Probabilities) -> Answers:
        """Return the answers for each image."""
        return self.answers(probabilities)


def make_view(
    name: str,
    trained: TrainedModel,
    get_hierarchy: Callable[[], Hierarchy],
    calibration: Calibrations,
    among: str | None,
    k: int,
    accuracy: float,
) -> Callable[[Probabilities], Answers]:
    """Return the function of a view, for probabilities as they are.

    Args:
        name: one of `VIEWS`.
        trained: the model.
        get_hierarchy: of its classes; called by all views except `top`.
        calibration: of the model, for `hedge`.
        among: expression of `subset` or `fold`.
        k: at most this many answers; `hedge` gives one.
        accuracy: of `hedge`.

    Raises:
        UserError: as `Predictor.view`.
    """
    if name not in VIEWS:
        raise UserError(f"no view is called {name!r}; expected one of {', '.join(VIEWS)}")
    if k < 1:
        raise UserError(f"k is {k}; expected at least 1. Use a larger k.")
    if among is not None and name not in ("subset", "fold"):
        raise UserError(
            f"view {name!r} takes no expression, and {among!r} was given; "
            "use the view subset or fold"
        )
    classes, exclusive = trained.classes, trained.probability == "softmax"
    if name == "top":
        return lambda probabilities: views.top(probabilities, classes, k, exclusive)
    if not exclusive:
        raise UserError(
            f"view {name!r} needs probabilities that add up to 1, and the model in"
            f" {trained.origin.path} was trained with sigmoid. Use the view top."
        )
    try:
        hierarchy = get_hierarchy()
    except UserError as error:
        raise UserError(
            f"view {name!r} needs WordNet, but {error}; the view top takes any classes"
        ) from error
    if name == "subset":
        if among is None:
            raise UserError(
                "view 'subset' needs an expression; give one such as 'leaf & !under(person)'"
            )
        chosen = subsets.select(among, hierarchy)
        return lambda probabilities: views.subset(probabilities, classes, chosen, k)
    if name == "fold":
        onto = fold_onto(FOLD_ONTO if among is None else among, hierarchy)
        once = among is not None and "partition(" in among  # so that all add up to 1
        return lambda probabilities: views.fold(probabilities, hierarchy, onto, k, once)
    if name == "hedge":
        generality = calibration.generality(accuracy)
        return lambda probabilities: [
            [answer] for answer in views.hedge(probabilities, hierarchy, generality)
        ]
    if name == "diverse":
        return lambda probabilities: views.diverse(probabilities, hierarchy, k)
    return lambda probabilities: views.basic(probabilities, hierarchy, k)


def fold_onto(among: str, hierarchy: Hierarchy) -> list[str]:
    """Return the synsets that `fold` takes for an expression: with classes at or below them.

    Args:
        among: expression, see `i21k.wordnet.subsets`.
        hierarchy: of the model's classes.

    Raises:
        UserError: if the expression is wrong, or chooses none.
    """
    known = class_lists.named("fall11").ids + class_lists.named("ilsvrc2012").ids
    candidates = ClassList.sorted(hierarchy.classes.ids + known)
    chosen = subsets.select(among, Hierarchy(candidates))
    found = [
        class_id
        for class_id, is_chosen in zip(candidates.ids, chosen, strict=True)
        if is_chosen and class_id in hierarchy.node_of
    ]
    if not found:
        raise UserError(
            f"none of the model's {len(hierarchy.classes):,} classes is at or below {among!r}; "
            "choose other synsets to fold onto"
        )
    return found


def check_regions(view: str, regions: bool) -> None:
    """Refuse regions for the view whose promise holds for whole images only.

    Raises:
        UserError: if regions are wanted in the view `hedge`.
    """
    if regions and view == "hedge":
        raise UserError(
            "view 'hedge' is calibrated on whole images. Omit regions, or use the view diverse."
        )
