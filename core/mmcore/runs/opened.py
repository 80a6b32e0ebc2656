"""A trained model, opened for evaluation, prediction or export: from a run, a checkpoint, or a folder we exported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore import plugins
from mmcore.base.jsonfile import checked, read_json
from mmcore.base.terminal import tell
from mmcore.contract.recipe import Stage
from mmcore.errors import PluginError, WeightsError
from mmcore.runs.build import adapt, attach, build_model
from mmcore.runs.config import from_tree
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import CONFIG_NAME, Settings, read_settings
from mmcore.train.stored import split
from mmcore.weights.files import read_tensors

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.model import Model

CONFIG = "config.json"
"""Of a folder that `mmcore export --format hf` wrote: which plugin, variant and stage its weights belong to."""

_WRITTEN = {"plugin": str, "variant": str, "stage": dict, "names": str, "step": int}
"""What `config.json` says of them under "mmcore"."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A trained model ready for evaluation, prediction or export."""

    model: "Model"
    settings: Settings
    family: OpenedPlugin
    run_dir: Path | None
    step: int
    origin: str
    """The checkpoint its weights came from, for messages."""


Change = Callable[[Stage], Stage]
"""What is done to a recipe before its model is built."""


def _as_trained(stage: Stage) -> Stage:
    return stage


def open_model(target: str | Path, *, checkpoint: str = "last", change: Change = _as_trained) -> OpenedModel:
    """A trained model from a run folder, one of its checkpoints, or a folder that `mmcore export --format hf` wrote.

    Args:
        target: the folder.
        checkpoint: "last", "best" or a step, for a run folder.
        change: of its recipe; the weights must fit the changed model as they fit their own.

    Raises:
        CheckpointError: there is nothing to open, or it is damaged.
        PluginError: the plugin it was trained with is missing or broken.
    """
    from mmcore.train.checkpoint import load
    from mmcore.weights.skeleton import skeleton

    path = Path(target)
    if (path / CONFIG).is_file() and not (path / CONFIG_NAME).is_file():
        return from_pretrained(path, change=change)
    run_dir, which = split(path)
    settings = without_missing(read_settings(run_dir))
    settings = settings.replace(stage=change(settings.stage))
    family = OpenedPlugin.open(settings.plugin, settings.extensions)
    loaded = load(run_dir, which or checkpoint)
    with skeleton():
        model = build_model(family, settings)
        adapt(model, settings)
    load_exactly(model, loaded.weights, str(loaded.path))
    attach(model, settings, run_dir)
    return OpenedModel(model.eval(), settings, family, run_dir, loaded.step, str(loaded.path))


def without_missing(settings: Settings) -> Settings:
    """The settings without extensions that are not installed, which is told.

    What an extension changed of the recipe stands in the run's settings, so the model opens without it. Data, metrics
    and templates that it brought are asked for by name where they are needed. A resume asks for all of them.
    """
    here = plugins.installed()
    missing = [name for name in settings.extensions if name not in here]
    for name in missing:
        tell(f"the extension {name} is not installed; the run opens without it, with the recipe as {name} left it")
    return settings.replace(extensions=tuple(name for name in settings.extensions if name in here))


def from_pretrained(folder: str | Path, *, change: Change = _as_trained) -> OpenedModel:
    """Open a folder that `export --format hf` wrote; the plugin that wrote it must be installed.

    Raises:
        WeightsError: it is not such a folder, or its tensors do not fit.
        PluginError: the plugin is missing or broken.
    """
    from mmcore.weights.skeleton import skeleton

    folder = Path(folder)
    try:
        written = read_json(folder / CONFIG)
        if written.get("model_type") == "llava":
            return _open_llava(folder, change)
        if "mmcore" not in written and (others := written.get("architectures")):
            other = others[0] if isinstance(others, list) else others
            raise WeightsError(
                f"the folder holds a {other!s:.80}, not a model in mmcore's own format",
                where=folder,
                do="open it with transformers, or give mmcore the run that it was exported from",
            )
        config = checked({"names": "own", "step": 0, **checked(written.get("mmcore"))}, _WRITTEN)
        stage = from_tree(config["stage"], str(folder / CONFIG))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"not a folder that mmcore exported: {error}", where=folder) from None
    settings = Settings(plugin=config["plugin"], variant=config["variant"], stage=change(stage), data="data")
    family = OpenedPlugin.open(settings.plugin)
    with skeleton():
        model = build_model(family, settings)
    tensors = read_tensors(folder)
    if config.get("names") == "published":
        tensors, _ = model.published("upstream").to_ours(tensors, model.state_dict())
    load_exactly(model, tensors, str(folder))
    attach(model, settings, folder)
    return OpenedModel(model.eval(), settings, family, None, config["step"], str(folder))


def _open_llava(folder: Path, change: Change) -> OpenedModel:
    """A `LlavaForConditionalGeneration` of transformers, by the family that has a plain LLaVA.

    Raises:
        PluginError: no installed family has one.
        RecipeError, WeightsError: it computes something that ours does not; its tensors do not fit.
    """
    from mmcore.language.llava.opened import read_llava
    from mmcore.plugins import find_stage
    from mmcore.weights.fill import unfilled
    from mmcore.weights.skeleton import skeleton

    entries = read_llava(str(folder), {})
    able = _families_with_a_llava()
    if not able:
        raise PluginError(
            "no installed family opens a LLaVA of transformers",
            where=folder,
            do="install one that does; `mmcore plugins list` shows what there is",
        )
    family = OpenedPlugin.open(able[0])
    assert family.family.plain_llava is not None
    variant, name = family.family.plain_llava
    stage = find_stage(family.stages(variant), name, family.plugin)
    stage = change(stage.replace(model={**stage.model, **entries}))
    settings = Settings(plugin=able[0], variant=variant, stage=stage, data="data")
    with skeleton():
        model = build_model(family, settings)
    attach(model, settings, folder)
    model.initialise(folder)
    if empty := unfilled(model):
        raise WeightsError(f"the folder lacks {len(empty)} tensors, such as {empty[0]}", where=folder)
    return OpenedModel(model.eval(), settings, family, None, 0, str(folder))


@cache
def _families_with_a_llava() -> list[str]:
    """Asked of all plugins in a process of their own, once."""
    from mmcore.plugins.survey import survey

    return [told["name"] for told in survey() if told["plain_llava"]]


def load_exactly(model: "nn.Module", state: Mapping[str, Any], where: str) -> None:
    """Fill a model with a state of exactly its own names and shapes.

    Raises:
        WeightsError: names or shapes differ; lists them.
    """
    from mmcore.weights.fill import fill

    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unknown or shapes:
        raise WeightsError(
            "the weights do not fit the model: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}",
            where=where,
            do="check that plugin, stage and variant are those the weights were trained with",
        )
    fill(model, state)
