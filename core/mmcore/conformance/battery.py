"""The battery that every family passes: `mmcore plugins check`, `tests/contract` and a plugin's own tests run it.

Each check is a function that takes a `Subject` and raises `BrokenContractError` (or any other error) when the plugin
breaks the contract. The plugin's smallest variant is built on the CPU and fed with its own sample data, so nothing is
downloaded; the stage checks are repeated for every stage of that variant.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore import plugins
from mmcore.base.yamltext import to_yaml
from mmcore.conformance.recipe_leaves import silent_entries
from mmcore.contract.recipe import Stage, matches_any
from mmcore.errors import MmcoreError, RecipeError
from mmcore.runs.build import adapt, attach, build_datasets, build_model, prepare_demo
from mmcore.runs.config import from_tree, to_tree
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings, active_sources

if TYPE_CHECKING:
    import torch

    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.contract.values import Batch, Losses

MAX_STEPS_TO_REACH = 20
"""Optimiser steps within which every trained parameter must have had a gradient: layers behind one that starts at zero
get none in the first, and what only some batches use (a prompt drawn one time in five) waits for its turn."""


class BrokenContractError(Exception):
    """A check found that the plugin breaks the contract."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the battery."""

    check: str
    ok: bool
    detail: str = ""


@dataclass
class Subject:
    """A plugin under test with what several checks need, each made once."""

    name: str
    data: Path
    family: OpenedPlugin
    variant: str
    stage: Stage

    @cached_property
    def settings(self) -> Settings:
        """The stage as --demo would run it, in full precision."""
        settings = Settings(
            plugin=self.name,
            variant=self.variant,
            stage=self.stage.replace(precision="fp32", compile=False),
            data=str(self.data),
            demo=True,
            device="cpu",
            workers=0,
        )
        prepare_demo(self.family, settings)
        return settings

    @cached_property
    def model(self) -> "Model":
        return self.build()

    def build(self) -> "Model":
        """A fresh model that knows where its data lie."""
        model = build_model(self.family, self.settings)
        attach(model, self.settings)
        return model

    @cached_property
    def train(self) -> "Datasets":
        return build_datasets(self.family, self.settings, "train")

    @cached_property
    def val(self) -> "Datasets":
        return build_datasets(self.family, self.settings, "val")

    @cached_property
    def batches(self) -> "dict[str, Batch]":
        """One micro-batch of every training source."""
        return self.draw(0)

    def draw(self, turn: int) -> "dict[str, Batch]":
        """One micro-batch of every training source; `turn` decides what is drawn and collated."""
        size = {name: s.micro_batch or self.stage.micro_batch for name, s in active_sources(self.settings).items()}
        return {name: _draw_batch(self.train, name, min(4, count), turn) for name, count in size.items()}


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
    yield _try("importing it does not import torch", lambda: _stays_light(name))
    plugin = plugins.load(name)
    yield _try("nothing in it is misspelt or left over", lambda: _nothing_stale(plugin))
    if not plugin.is_family:
        return
    family = OpenedPlugin.open(name)
    recipes = _try("its recipes validate and survive YAML", lambda: _recipes_validate(family))
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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenContractError(message)


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextlib.contextmanager
def _environment(**values: str) -> Generator[None, None, None]:
    import os

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


# Without torch

_LIGHT = """
import sys
from mmcore import plugins
from mmcore.runs.plugin import OpenedPlugin
family = OpenedPlugin.open(sys.argv[1])
for variant in family.plugin.variants:
    family.stages(variant)
sys.exit(3 if "torch" in sys.modules else 0)
"""


def _stays_light(name: str) -> str:
    script = _LIGHT if plugins.load(name).is_family else _LIGHT.split("family =")[0] + "plugins.load(sys.argv[1])\n"
    script = script if "sys.exit" in script else script + "sys.exit(3 if 'torch' in sys.modules else 0)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, name], capture_output=True, text=True, timeout=120, check=False
    )
    _require(done.returncode != 3, "importing the plugin or calling stage_params imports torch; move it into the hooks")
    _require(done.returncode == 0, (done.stderr.strip().splitlines() or ["the interpreter died"])[-1])
    return ""


def _nothing_stale(plugin: plugins.Plugin) -> str:
    assert plugin.module is not None
    found = plugins.suspicions(plugin.module)
    _require(not found, "\n".join(found))
    return ""


def _recipes_validate(family: OpenedPlugin) -> str:
    from mmcore.base.yamltext import parse_yaml

    count = 0
    for variant in family.plugin.variants:
        for stage in family.stages(variant):
            again = from_tree(parse_yaml(to_yaml(to_tree(stage)), "battery"), f"{variant} {stage.name}")
            _require(
                to_tree(again) == to_tree(stage),
                f"variant {variant}, stage {stage.name} changes on its way through YAML",
            )
            unknown = {stage.init.stage} - {None, *(other.name for other in family.stages(variant))}
            _require(not unknown, f"variant {variant}, stage {stage.name} starts from the unknown stage {unknown}")
            count += 1
    return f"{count} stages"


# One stage of the smallest variant


def _model_builds(subject: Subject) -> str:
    from mmcore.contract.model import misspelt_methods

    for name, near in misspelt_methods(subject.model).items():
        _require(False, f"{type(subject.model).__name__}.{name} would never be called; did you mean {near!r}?")
    again = build_model(subject.family, subject.settings)
    differing = _differing(subject.model.state_dict(), again.state_dict())
    _require(not differing, f"built twice from one seed, these differ: {_some(differing)}")
    return f"{sum(p.numel() for p in subject.model.parameters()):,} parameters"


def _data_opens(subject: Subject) -> str:
    from mmcore.contract.protocols import DataSource
    from mmcore.contract.values import Batch

    for split, datasets in (("train", subject.train), ("val", subject.val)):
        for name, source in datasets.sources.items():
            _require(isinstance(source, DataSource), f"{split} source {name} is not a DataSource")
            _require(source.name == name, f"{split} source {name} calls itself {source.name!r}")
            _require(len(source) > 0, f"{split} source {name} has no records")
            _require(source.fingerprint == source.fingerprint != "", f"{split} source {name} has no stable fingerprint")
            _require(name in datasets.collate, f"{split} source {name} has no collator")
    missing = [name for name in active_sources(subject.settings) if name not in subject.train.sources]
    _require(not missing, f"the recipe's sources are not given: {_some(missing)}")
    missing = [name for name in subject.stage.validation if name not in subject.val.evaluators]
    _require(not missing, f"these validation sets have no evaluator: {_some(missing)}")
    for name, batch in subject.batches.items():
        _require(isinstance(batch, Batch), f"the collator of {name} returns {type(batch).__name__}, not a Batch")
        again = _draw_batch(subject.train, name, len(batch))
        _require(
            _equal(batch, again), f"one draw of {name} gives two different samples: randomness must come from its seed"
        )
        _picklable(subject.train.sources[name])
    return ", ".join(f"{name} {len(source)}" for name, source in subject.train.sources.items())


def _losses_fit(subject: Subject) -> str:
    import torch

    from mmcore.contract.values import Losses

    subject.model.train()
    names: set[str] = set()
    for name, batch in subject.batches.items():
        torch.manual_seed(0)
        losses = subject.model(batch)
        _require(isinstance(losses, Losses) and len(losses) > 0, f"forward returns {type(losses).__name__}, not Losses")
        names.update(losses)
        for key, loss in losses.items():
            _require(
                loss.total.ndim == 0, f"{name}: loss {key} has shape {tuple(loss.total.shape)}, not a single number"
            )
            _require(bool(torch.isfinite(loss.total)), f"{name}: loss {key} is not finite")
            _require(
                loss.per in batch.normalisers, f"{name}: loss {key} is per {loss.per!r}, which the batch does not count"
            )
    return f"{len(names)} losses"


def _gradients_reach(subject: Subject) -> str:
    """Train a few steps over all sources: what the stage trains gets gradients and moves, the rest stays equal."""
    import torch

    from mmcore.train.optim import adamw, freeze, parameter_groups

    model = subject.build()
    adapt(model, subject.settings)
    freeze(model, subject.stage)
    wanted = {name for name, _ in model.named_parameters() if _is_trained(name, subject.stage)}
    given = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = _idle(model, subject.stage)
    _require(given <= wanted, f"frozen by the recipe, yet trained: {_some(sorted(given - wanted))}")
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimiser = adamw(parameter_groups(model, subject.stage), subject.stage)
    waiting = {name for name in given if not matches_any(idle, name)}
    reached: set[str] = set()
    model.train()
    for step in range(MAX_STEPS_TO_REACH):
        optimiser.zero_grad(set_to_none=True)
        for position, batch in enumerate(subject.draw(step).values()):
            torch.manual_seed(100 * step + position)
            _total(model(batch), batch).backward()
        stray = [n for n, p in model.named_parameters() if p.grad is not None and n not in given]
        _require(not stray, f"gradients reach frozen parameters: {_some(stray)}")
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimiser.step()
        if step > 0 and waiting <= reached:
            break
    lost = sorted(waiting - reached)
    false = sorted(name for name in reached if matches_any(idle, name))
    _require(not false, f"declared idle, yet a gradient reaches them: {_some(false)}")
    _require(not lost, f"the stage trains these, but no gradient reaches them: {_some(lost)}")
    moved = [n for n, p in model.named_parameters() if n not in given and not torch.equal(p, before[n])]
    _require(not moved, f"frozen parameters changed in training: {_some(moved)}")
    still = [n for n, p in model.named_parameters() if n in reached and torch.equal(p, before[n])]
    _require(not still, f"trained parameters did not change: {_some(still)}")
    frozen = len(before) - len(given)
    return f"{len(given)} tensors trained, {frozen} frozen" + (
        f", {len(given - reached)} declared idle" if given - reached else ""
    )


def _typos_are_caught(subject: Subject) -> str:
    from mmcore.train.optim import freeze, parameter_groups

    typo = "no_such_module_anywhere"
    stage = subject.stage
    model = build_model(subject.family, subject.settings)
    _must_refuse("a frozen pattern that matches nothing", lambda: freeze(model, stage.replace(frozen=(typo,))))
    freeze(model, stage)
    wrong = stage.replace(optim=stage.optim.replace(multipliers={typo: 0.1}))
    _must_refuse("a multiplier pattern that matches nothing", lambda: parameter_groups(model, wrong))
    for key, broken in {
        "model": stage.replace(model={**stage.model, typo: 1}),
        "data.transform": stage.replace(data=stage.data.replace(transform={**stage.data.transform, typo: 1})),
    }.items():
        settings = subject.settings.replace(stage=broken)
        build = build_model if key == "model" else _build_train
        _must_refuse(
            f"an unknown entry of {key}", lambda build=build, settings=settings: build(subject.family, settings)
        )
    return ""


def _nothing_is_silent(subject: Subject) -> str:
    silent = list(silent_entries(subject.family, subject.settings))
    _require(not silent, "; ".join(silent))
    return ""


def _build_train(family: OpenedPlugin, settings: Settings) -> "Datasets":
    return build_datasets(family, settings, "train")


def _predicts(subject: Subject) -> str:
    import torch

    from mmcore.contract.model import Model, overrides
    from mmcore.contract.values import Prediction

    subject.model.eval()
    found = 0
    for name in subject.val.sources:
        batch = _draw_batch(subject.val, name, min(2, len(subject.val.sources[name])))
        with torch.inference_mode():
            predictions = subject.model.predict(batch)
        _require(
            isinstance(predictions, list) and all(isinstance(p, Prediction) for p in predictions),
            f"{name}: predict does not return a list of Prediction",
        )
        _require(len(predictions) == len(batch), f"{name}: {len(predictions)} predictions for {len(batch)} images")
        for prediction in predictions:
            _fits(prediction, name)
            found += 0 if prediction.boxes_xyxy is None else len(prediction.boxes_xyxy)
        evaluator = subject.val.evaluators[name]()
        evaluator.update(batch, predictions)
        json.dumps(evaluator.state())
    if overrides(subject.model, Model.prepare):
        _predicts_loose(subject)
    return f"{found} objects found by the untrained model"


def _predicts_loose(subject: Subject) -> None:
    """`mmcore predict` gives images of any size, with the family's own vocabulary."""
    import numpy as np
    import torch

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    with torch.inference_mode():
        (prediction,) = subject.model.predict(subject.model.prepare([image], names=None, prompt=None))
    _require(prediction.size == (50, 70), f"a loose image of 50 x 70 pixels is predicted as {prediction.size}")
    _fits(prediction, "prepare")


def _fits(prediction: Any, name: str) -> None:
    """Everything a prediction says per object must be there for the same number of objects."""
    import torch

    counts = {
        key: len(value)
        for key in ("boxes_xyxy", "scores", "labels", "names", "masks")
        if (value := getattr(prediction, key)) is not None
    }
    _require(len(set(counts.values())) <= 1, f"{name}: a prediction disagrees about its number of objects: {counts}")
    for key in ("boxes_xyxy", "scores", "labels"):
        value = getattr(prediction, key)
        _require(
            value is None or (isinstance(value, torch.Tensor) and value.device.type == "cpu"),
            f"{name}: {key} of a prediction must be a tensor on the CPU",
        )


def _export_loads_again(subject: Subject) -> str:
    import torch

    from mmcore.weights.files import read_tensors, write_safetensors

    state = {name: tensor.detach() for name, tensor in subject.model.state_dict().items()}
    mapping = subject.model.published("upstream")
    with tempfile.TemporaryDirectory(prefix="mmcore-check-") as folder:
        write_safetensors(mapping.to_published(state), Path(folder), 1 << 40, {})
        published = read_tensors(Path(folder))
        again, _ = mapping.to_ours(
            published, {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        )
    lost = sorted(set(state) - set(again))
    persistent = {name for name, _ in subject.model.named_parameters()}
    _require(not persistent & set(lost), f"parameters that an export loses: {_some(lost)}")
    differing = _differing({name: state[name] for name in again}, again)
    _require(not differing, f"exported and loaded again, these differ: {_some(differing)}")
    return f"{len(published)} published tensors"


STAGE_CHECKS: tuple[tuple[str, Callable[[Subject], str], bool], ...] = (
    ("the model builds, the same from the same seed", _model_builds, True),
    ("the sample data opens, and a draw decides its sample", _data_opens, True),
    ("one step on the CPU gives finite losses that the batch can normalise", _losses_fit, True),
    ("gradients reach exactly what the stage trains", _gradients_reach, False),
    ("typing errors in patterns and settings are caught", _typos_are_caught, False),
    ("no entry of the recipe is silent: each is read or refused", _nothing_is_silent, False),
    ("predictions are one per image and fit the evaluators", _predicts, False),
    ("an export loads again", _export_loads_again, False),
)
"""Title, function, and whether the checks after it need it to pass."""


# Small helpers


def _draw_batch(datasets: "Datasets", name: str, count: int, turn: int = 0) -> "Batch":
    """The `turn`-th `count` usable samples of a source, going round when it is short, collated."""
    from mmcore.contract.values import Draw

    source = datasets.sources[name]
    samples: list[Any] = []
    for number in range(turn * count, turn * count + len(source)):
        sample = source.sample(Draw(name, number % len(source), 1_000 + number))
        samples += [sample] if sample is not None else []
        if len(samples) == count:
            break
    _require(len(samples) == count, f"source {name} gives only {len(samples)} usable samples")
    return datasets.collate[name](samples, 7 + turn)


def _total(losses: "Losses", batch: "Batch") -> "torch.Tensor":
    return sum(loss.total / max(1.0, batch.normalisers[loss.per]) for loss in losses.values())  # type: ignore[return-value]


def _idle(model: "Model", stage: Stage) -> tuple[str, ...]:
    """Patterns of parameters that a family trains only with other data, or keeps because published files have them."""
    return tuple(model.idle_parameters(stage))


def _is_trained(name: str, stage: Stage) -> bool:
    return stage.lora is not None or (matches_any(stage.trainable, name) and not matches_any(stage.frozen, name))


def _must_refuse(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except RecipeError:
        return
    except Exception as error:
        raise BrokenContractError(f"{what} raises {type(error).__name__} instead of RecipeError: {error}") from error
    raise BrokenContractError(f"{what} is accepted in silence; it must be a RecipeError with the nearest name")


def _differing(first: "Mapping[str, torch.Tensor]", second: "Mapping[str, torch.Tensor]") -> list[str]:
    import torch

    names = sorted(set(first) ^ set(second))
    return names + [n for n in first if n in second and not torch.equal(first[n].cpu(), second[n].cpu())]


def _equal(first: Any, second: Any) -> bool:
    """Whether two values of batches are equal, tensors included."""
    import dataclasses

    import torch

    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = dataclasses.fields(first)
        return type(first) is type(second) and all(
            _equal(getattr(first, f.name), getattr(second, f.name)) for f in fields
        )
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def _picklable(source: object) -> None:
    """Sources travel to worker processes; that is Python's own channel between its processes, not a file."""
    from multiprocessing.reduction import ForkingPickler

    try:
        ForkingPickler.dumps(source)
    except Exception as error:
        raise BrokenContractError(f"{type(source).__name__} cannot travel to a worker process: {error}") from error
