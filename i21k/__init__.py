"""Train an image classifier on the full ImageNet, and use it.

The names below are what a notebook needs. They are loaded when they are first used, so that
`import i21k` takes no time.

    open_dataset   open a packed split: images and labels by number
    load_model     load a trained model: classes, probabilities and features of images
    embed          the features of many images, with their names and labels
    load_features  features that `i21k embed` wrote
    class_list     a class list by name, by file or of a dataset
    taxonomy       WordNet's nouns: names, glosses, parents
    Hierarchy      a class list in WordNet: what is below what, and how far apart
    select         choose classes by an expression such as "under(dog) & leaf"
    outline        answers as a tree of WordNet
    convert        convert logits from one class list to another

and the types that these give or raise: `Dataset`, `Predictor`, `Features`, `ClassList`, `Answer`,
`UserError`.

    >>> import i21k
    >>> model = i21k.load_model("runs/quickstart")
    >>> dataset = i21k.open_dataset("data/quickstart", "val")
    >>> image, label = dataset[0]
    >>> answers = model.predict(image, k=3)
    >>> [round(answer.probability, 2) for answer in answers] == sorted(
    ...     (round(float(p), 2) for p in model.probabilities(image)), reverse=True)[:3]
    True
    >>> i21k.taxonomy().name(dataset.classes.ids[label])
    'tench'
    >>> hierarchy = i21k.Hierarchy(model.classes)
    >>> i21k.select("under(shark)", hierarchy).tolist()
    [False, False, True, True]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i21k.data.dataset import Dataset, class_list, open_dataset
    from i21k.errors import UserError
    from i21k.evaluation.features import Features, load_features
    from i21k.labels import ClassList
    from i21k.prediction.embed import embed
    from i21k.prediction.predictor import Predictor, load_model
    from i21k.wordnet.class_lists import convert
    from i21k.wordnet.hierarchy import Hierarchy
    from i21k.wordnet.outline import outline
    from i21k.wordnet.subsets import select
    from i21k.wordnet.taxonomy import wordnet as taxonomy
    from i21k.wordnet.views import Answer

__all__ = (
    "Answer",
    "ClassList",
    "Dataset",
    "Features",
    "Hierarchy",
    "Predictor",
    "UserError",
    "class_list",
    "convert",
    "embed",
    "load_features",
    "load_model",
    "open_dataset",
    "outline",
    "select",
    "taxonomy",
)
_HOME = {  # module and name in it
    "Answer": ("i21k.wordnet.views", "Answer"),
    "ClassList": ("i21k.labels", "ClassList"),
    "Dataset": ("i21k.data.dataset", "Dataset"),
    "Features": ("i21k.evaluation.features", "Features"),
    "Hierarchy": ("i21k.wordnet.hierarchy", "Hierarchy"),
    "Predictor": ("i21k.prediction.predictor", "Predictor"),
    "UserError": ("i21k.errors", "UserError"),
    "class_list": ("i21k.data.dataset", "class_list"),
    "convert": ("i21k.wordnet.class_lists", "convert"),
    "embed": ("i21k.prediction.embed", "embed"),
    "load_features": ("i21k.evaluation.features", "load_features"),
    "load_model": ("i21k.prediction.predictor", "load_model"),
    "open_dataset": ("i21k.data.dataset", "open_dataset"),
    "outline": ("i21k.wordnet.outline", "outline"),
    "select": ("i21k.wordnet.subsets", "select"),
    "taxonomy": ("i21k.wordnet.taxonomy", "wordnet"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'i21k' has no attribute {name!r}")
    import importlib

    module, attribute = _HOME[name]
    if module.startswith("i21k.prediction"):  # JAX is imported there
        from i21k import backend, log

        backend.prepare()
        log.quiet_libraries()
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
