"""A base model that a user names by its folder: `model.language` and `model.vision` become plain settings and a start.

    --set model.language=DIR       sizes, tokenizer and template of DIR; its weights fill the language model
    --set model.vision=DIR         sizes and picture settings of DIR; its weights fill the tower
    model.language: {from: DIR, attention_dropout: 0.1}    the same, with single entries replaced
    --init LLAVA_FOLDER, --init RUN    its sizes as well, where the run was given others than its variant's

After this every number stands in the run's own `config.yaml`, and the folder is asked for weights only, once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base import hub
from mmcore.base.yamltext import read_yaml
from mmcore.contract.recipe import Init, Stage
from mmcore.errors import RecipeError, UsageError
from mmcore.runs.config import Origins
from mmcore.runs.entries import FROM
from mmcore.train.stored import split

if TYPE_CHECKING:
    from mmcore.runs.plugin import OpenedPlugin

_WRITTEN: Mapping[str, tuple[str, ...]] = {"language": ("language", "tokenizer", "template"), "vision": ("tower",)}
"""What a base stands for among the entries of `model`."""
_OF_LLAVA: Mapping[str, tuple[str, ...]] = {"language": ("after_image_text", "suppressed")}
"""What the whole of a LLaVA says besides."""
_RUN, _CONFIG = "config.yaml", "config.json"


def with_bases(stage: Stage, family: "OpenedPlugin", init: tuple[str, ...], origins: Origins) -> tuple[Stage, Origins]:
    """The stage with every base replaced by its settings, and started from its weights where `init` says nothing.

    Args:
        stage: as --config and --set left it.
        family: says which parts of its models may be given.
        init: the values of --init.
        origins: of what a user changed.

    Returns:
        The stage, and where the new entries come from.
    Raises:
        RecipeError: an architecture is not known (with those that are), or the family takes no such part.
        UsageError: the stage starts from another's run, and the folders do not fill the whole model.
        MissingDataError: there is no such folder.
    """
    named = {part: found for part in _WRITTEN if (found := _source(stage.model.get(part))) is not None}
    _check_parts(named, stage, family, origins)
    model, told = dict(stage.model), dict[str, str]()
    for part, (source, changes) in named.items():
        entries = _read(part, source, model, origins)
        for name, value in entries.items():
            told |= _told(name, value, f"{_CONFIG} of {source}")
            model[name] = {**value, **changes} if name == _WRITTEN[part][0] else value
        if part not in entries:
            del model[part]
    for part in family.family.bases if init else ():
        if not any(name in stage.model for name in (part, *_WRITTEN[part][:1])):
            for name, value in _of_start(part, init[0], model, origins).items():
                model[name] = value
                told |= _told(name, value, f"--init {init[0]}")
    if not told:
        return stage, {}
    changed = stage.replace(model=model)
    if named and not init:
        changed = changed.replace(init=_init(stage, family, {part: source for part, (source, _) in named.items()}))
    return changed, told


def _source(entry: Any) -> tuple[str, dict[str, Any]] | None:
    """The folder that an entry names, and what replaces its settings; None for plain settings."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and FROM in entry:
        return str(entry[FROM]), {name: value for name, value in entry.items() if name != FROM}
    return None


def _told(name: str, value: Any, source: str) -> Origins:
    """Where the leaves of one entry come from."""
    leaves = [f"model.{name}.{leaf}" for leaf in value] if isinstance(value, Mapping) else [f"model.{name}"]
    return dict.fromkeys(leaves, source)


def _check_parts(named: Mapping[str, Any], stage: Stage, family: "OpenedPlugin", origins: Origins) -> None:
    known = family.family.bases
    for part in named:
        where = origins.get(f"model.{part}") or origins.get(f"model.{part}.{FROM}") or f"model.{part}"
        if part not in known:
            raise RecipeError(
                f"{family.plugin.name} takes no folder for model.{part}",
                where=where,
                known=[f"model.{one}" for one in known] or "no part of its models can be given by a folder",
                do="leave it out",
            )
        if _WRITTEN[part][0] != part and _WRITTEN[part][0] in stage.model:
            raise RecipeError(
                f"model.{part} and model.{_WRITTEN[part][0]} both describe it",
                where=where,
                do=f"write changes beside the folder: model.{part}={{{FROM}: FOLDER, ...}}",
            )


def _read(part: str, source: str, model: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    from mmcore.language.llava.base import read_base

    return read_base(part, source, _chosen(part, model, origins))


def _chosen(part: str, model: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    """Entries beside the part that a user gave."""
    return {name: model[name] for name in _WRITTEN[part] if f"model.{name}" in origins and name != part}


def _of_start(part: str, start: str, model: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    """What the first --init says of a part: a run that was given a base itself, or a LLaVA of transformers."""
    if start == "random" or hub.is_hub(start):
        return {}
    folder, written = split(Path(start).expanduser())[0], (*_WRITTEN[part], *_OF_LLAVA.get(part, ()))
    if (folder / _RUN).is_file():
        there = (read_yaml(folder / _RUN).get("stage") or {}).get("model") or {}
        whole = there.get(_WRITTEN[part][0])
        is_base = isinstance(whole, Mapping) and bool({"model_type", "kind"} & whole.keys())
        return {name: there[name] for name in written if name in there and name not in model} if is_base else {}
    if not (folder / _CONFIG).is_file():
        return {}
    from mmcore.language.llava.base import is_llava

    if not is_llava(folder):
        return {}
    from mmcore.language.llava.opened import read_llava

    entries = read_llava(start, _chosen(part, model, origins))
    return {name: entries[name] for name in written if name in entries}


def _init(stage: Stage, family: "OpenedPlugin", sources: Mapping[str, str]) -> Init:
    """Where the stage starts now: the folders, and of its own starts those that fill other parts."""
    from mmcore.language.llava.base import FILLS, absolute, is_llava

    old = stage.init.published
    rest = dict(old) if isinstance(old, Mapping) else {}
    given = {FILLS[part]: absolute(source) for part, source in sources.items()}
    missing = [part for part in family.family.bases if FILLS[part] not in {**rest, **given}]
    if missing and not stage.init.optional:
        raise UsageError(
            f"stage {stage.number} {stage.name} starts from {_said(stage.init)}, and nothing is said to fill the rest",
            where=" and ".join(f"model.{part}" for part in sources),
            do=f"give --init as well, or model.{missing[0]}=FOLDER",
        )
    if len(set(given.values())) == 1 and len(given) == len(FILLS) and is_llava(Path(next(iter(sources.values())))):
        given["projector"] = next(iter(given.values()))
    return Init(published={**rest, **given}, optional=stage.init.optional)


def _said(init: Init) -> str:
    return f"stage {init.stage}" if init.stage else " and ".join(init.names)
