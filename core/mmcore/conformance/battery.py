"""The battery that every family passes: `mmcore plugins check`, `tests/contract` and a plugin's own tests run it.

Each check is a function that takes a `Subject` and raises `BrokenContractError` (or any other error) when the plugin
breaks the contract. The plugin's smallest variant is built on the CPU and fed with its own sample data, so nothing is
downloaded; the stage checks are repeated for every stage of that variant. A new check is a function and a line of
`STAGE_CHECKS`.
"""

import contextlib
import os
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
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
    place: str = ""
    """File and line of the failure, the last one inside the plugin where it passed through."""
    trace: str = ""
    """The whole traceback, for `--debug`."""


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
    told: dict[str, str] = {}
    for outcome in _battery(name):
        first = told.setdefault(outcome.detail, outcome.check) if not outcome.ok else outcome.check
        # One cause is told once; what fails after it for the same reason only says so.
        yield outcome if first == outcome.check else replace(outcome, detail=f"for the same reason as: {first}")


def _battery(name: str) -> Iterator[Outcome]:
    """The checks of a plugin that loads."""
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
    except (BrokenContractError, MmcoreError) as error:
        return _failed(title, str(error), error)
    except Exception as error:  # whatever a plugin raises is a finding, not a crash of the battery
        return _failed(title, f"{type(error).__name__}: {error}", error)


def _failed(title: str, detail: str, error: BaseException) -> Outcome:
    trace = "".join(traceback.format_exception(error)).rstrip()
    return Outcome(title, False, detail, place_of(error.__cause__ or error), trace)


def place_of(error: BaseException) -> str:
    """`file:line` where it was raised: the last frame outside the core and its libraries, if there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    core = str(Path(plugins.__file__).parents[1])
    own = [f for f in frames if not f.filename.startswith(core) and "site-packages" not in f.filename]
    own = [f for f in own if not f.filename.startswith(sysconfig.get_path("stdlib"))]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


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
