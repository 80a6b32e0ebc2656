"""The battery that every family passes: `mmcore plugins check`, `tests/contract` and a plugin's own tests run it.

Each check is a function that takes a `Subject` and raises `BrokenContractError` (or any other error) when the plugin
breaks the contract. The plugin's smallest variant is built on the CPU and fed with its own sample data, so nothing is
downloaded; the stage checks are repeated for every stage of that variant. A new check is a function and a line of
`STAGE_CHECKS`.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmcore import plugins
from mmcore.conformance.data import data_opens
from mmcore.conformance.model import export_loads_again, gradients_reach, losses_fit, model_builds
from mmcore.conformance.package import nothing_stale, recipes_validate, stays_light
from mmcore.conformance.predictions import predicts
from mmcore.conformance.recipe import nothing_is_silent, typos_are_caught
from mmcore.conformance.subject import BrokenContractError, Subject
from mmcore.errors import MmcoreError
from mmcore.runs.plugin import OpenedPlugin

STAGE_CHECKS: tuple[tuple[str, Callable[[Subject], str], bool], ...] = (
    ("the model builds, the same from the same seed", model_builds, True),
    ("the sample data opens, and a draw decides its sample", data_opens, True),
    ("one step on the CPU gives finite losses that the batch can normalise", losses_fit, True),
    ("gradients reach exactly what the stage trains", gradients_reach, False),
    ("typing errors in patterns and settings are caught", typos_are_caught, False),
    ("no entry of the recipe is silent: each is read or refused", nothing_is_silent, False),
    ("predictions are one per image and fit the evaluators", predicts, False),
    ("an export loads again", export_loads_again, False),
)
"""Title, function, and whether the checks after it need it to pass."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the battery."""

    check: str
    ok: bool
    detail: str = ""


def battery(name: str) -> Iterator[Outcome]:
    """Run every check on an installed plugin, in the order in which one would repair it.

    Args:
        name: of a family; an extension is loaded and nothing more, since alone it does nothing.

    Yields:
        One outcome per check; what cannot be checked because an earlier check failed is left out.
    """
    loaded = _try("it loads and its hooks fit the contract", lambda: plugins.load(name).label)
    yield loaded
    if not loaded.ok:
        return
    yield _try("importing it does not import torch", lambda: stays_light(name))
    plugin = plugins.load(name)
    yield _try("nothing in it is misspelt or left over", lambda: nothing_stale(plugin))
    if not plugin.is_family:
        return
    family = OpenedPlugin.open(name)
    recipes = _try("its recipes validate and survive YAML", lambda: recipes_validate(family))
    yield recipes
    if not recipes.ok:
        return
    variant = "tiny" if "tiny" in plugin.variants else plugin.variants[-1]
    with tempfile.TemporaryDirectory(prefix="mmcore-check-") as folder, _environment(MMCORE_CACHE=folder):
        for stage in family.stages(variant):
            subject = Subject(name, Path(folder) / "demo", family, variant, stage)
            yield from _check_stage(subject)


def _check_stage(subject: Subject) -> Iterator[Outcome]:
    place = f"{subject.variant}, stage {subject.stage.number} {subject.stage.name}: "
    for title, check, needed in STAGE_CHECKS:
        outcome = _try(place + title, lambda check=check: check(subject))
        yield outcome
        if needed and not outcome.ok:
            return


def _try(title: str, check: Callable[[], str]) -> Outcome:
    try:
        return Outcome(title, True, check())
    except KeyboardInterrupt:
        raise
    except BrokenContractError as error:
        return Outcome(title, False, str(error))
    except MmcoreError as error:
        return Outcome(title, False, str(error))
    except Exception as error:  # whatever a plugin raises is a finding, not a crash of the battery
        return Outcome(title, False, f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _environment(**values: str) -> Generator[None, None, None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
