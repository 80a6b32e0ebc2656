"""No silent entry: each leaf of a stage is perturbed, and each time it is read or refused.

    a misspelt sibling of every entry          refused, with the nearest name
    a value that no entry can have             refused, wherever only the family knows the entry (`model`, `transform`)
    loss weights                               the built model has them
    format, files, folders, `max_pixels`       another value stops the data, so they are looked at
    metrics                                    those that no evaluator gives are refused

What the core reads itself has a test of the core's own (`tests/core/contract/test_every_leaf_is_read.py`).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mmcore.contract.recipe import Stage
from mmcore.contract.values import ConversationSample, Draw
from mmcore.errors import DataError, RecipeError
from mmcore.runs.build import build_datasets, build_model
from mmcore.runs.checks import check_metrics
from mmcore.runs.config import from_tree, to_tree
from mmcore.runs.entries import Place, assign
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings
from mmcore.weights.skeleton import skeleton

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataSource

TYPO = "no_such_entry"
UNFITTING = {"no such": ["value"]}
"""What no entry of a family can be."""
ALL_TINY = 1
"""A limit in pixels below every picture."""
TRIES = 16
"""Records of a source among which one has a picture."""


def silent_entries(family: OpenedPlugin, settings: Settings) -> Iterator[str]:
    """What a stage accepts without acting on it; nothing for a family that honours the contract.

    Args:
        family: under test.
        settings: of a run on its sample data, on the CPU.
    """
    stage = settings.stage

    def model(changed: Stage) -> None:
        with skeleton():
            build_model(family, settings.replace(stage=changed))

    def train(changed: Stage) -> None:
        build_datasets(family, settings.replace(stage=changed), "train")

    def val(changed: Stage) -> None:
        validation = build_datasets(family, settings.replace(stage=changed), "val")
        check_metrics(changed, validation)

    yield from _unknown_keys(stage)
    yield from _family_entries(stage, ("model",), model)
    yield from _loss_weights(stage, model)
    yield from _family_entries(stage, ("data", "transform"), train)
    yield from _accepted(stage, ("data", "templates"), f"{TYPO}.yaml", train)
    for name in stage.data.sources:
        yield from _files(stage, ("data", "sources", name), train)
    for name in stage.validation:
        yield from _files(stage, ("validation", name), val)
        yield from _accepted(stage, ("validation", name, "metrics"), [TYPO], val)
        yield from _accepted(stage, ("best_metric",), f"{name}/{TYPO}", val)
    yield from _pixels(family, settings)


def _unknown_keys(stage: Stage) -> Iterator[str]:
    """A misspelt sibling in every group whose keys the recipe itself knows."""
    for path, place in _groups(to_tree(stage), Place("part", (Stage,)), ()):
        if place.kind in ("part", "choice", "named"):
            yield from _accepted(stage, (*path, TYPO), 1, lambda changed: None)


def _groups(tree: Any, place: Place, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Place]]:
    if not isinstance(tree, dict):
        return
    yield path, place
    for key, value in tree.items():
        yield from _groups(value, place.below(key), (*path, key))


def _family_entries(stage: Stage, group: tuple[str, ...], build: Callable[[Stage], Any]) -> Iterator[str]:
    """A misspelt entry of a group that only the family knows, and each entry with a value that cannot be."""
    tree = to_tree(stage)
    for key in group:
        tree = tree[key]
    yield from _accepted(stage, (*group, TYPO), 1, build)
    for name in tree:
        yield from _accepted(stage, (*group, name), UNFITTING, build)


def _loss_weights(stage: Stage, build: Callable[[Stage], Any]) -> Iterator[str]:
    yield from _accepted(stage, ("loss_weights", TYPO), 1.0, build)
    others = {name: 2 * weight + 1 for name, weight in stage.loss_weights.items()}
    try:
        build(stage.replace(loss_weights=others))
    except RecipeError as error:
        yield f"loss_weights: {error.what}"


def _files(stage: Stage, entry: tuple[str, ...], build: Callable[[Stage], Any]) -> Iterator[str]:
    """Format, annotations, images and options of a source or a validation set."""
    for key, value in (("format", TYPO), ("annotations", f"{TYPO}.json"), ("images", TYPO)):
        yield from _accepted(stage, (*entry, key), value, build)
    yield from _family_entries(stage, (*entry, "options"), build)


def _pixels(family: OpenedPlugin, settings: Settings) -> Iterator[str]:
    """Pictures beyond `data.max_pixels` are refused."""
    changed = _changed(settings.stage, ("data", "max_pixels"), ALL_TINY)
    for name, source in build_datasets(family, settings.replace(stage=changed), "train").sources.items():
        tried = range(min(len(source), TRIES))
        if any(_opens_one(source, position) for position in tried):
            yield f"data.max_pixels is not looked at: source {name} opens pictures of more pixels"


def _opens_one(source: "DataSource", position: int) -> bool:
    """Whether a sample opens and shows something; text alone needs no budget."""
    try:
        sample = source.sample(Draw(source.name, position, position))
    except DataError:
        return False
    return bool(sample.images) if isinstance(sample, ConversationSample) else sample is not None


def _accepted(stage: Stage, path: tuple[str, ...], value: Any, build: Callable[[Stage], Any]) -> Iterator[str]:
    """What is said where a change goes through, or where what comes of it is no answer to a user."""
    told = f"{'.'.join(path)}={value}"
    try:
        build(_changed(stage, path, value))
    except (RecipeError, DataError):
        return
    except Exception as error:
        yield f"{told} raises {type(error).__name__} instead of RecipeError: {error}"
    else:
        yield f"{told} is accepted in silence"


def _changed(stage: Stage, path: tuple[str, ...], value: Any) -> Stage:
    tree = to_tree(stage)
    assign(tree, path, value, "perturbed", {})
    return from_tree(tree, "perturbed")
