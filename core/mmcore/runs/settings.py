"""What a run is, before anything is built: command line -> plugin -> recipe -> settings, and the files that keep them.

`Settings` is what `config.yaml` in a run folder holds and all that --resume needs. Nothing here imports torch.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mmcore import plugins
from mmcore.base.files import replace_text
from mmcore.base.jsonfile import read_json
from mmcore.base.yamltext import read_yaml, to_yaml
from mmcore.contract.recipe import Source, Stage, Validation
from mmcore.contract.run import Settings as Settings
from mmcore.errors import CheckpointError, RecipeError, UsageError, suggest
from mmcore.runs.bases import with_bases
from mmcore.runs.config import Origins, from_tree, resolve, to_tree
from mmcore.runs.listed import with_listed
from mmcore.runs.plugin import OpenedPlugin
from mmcore.train.stored import MANIFEST, STATE, split
from mmcore.version import API_VERSION, __version__

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"
PRECIOUS_VERSIONS = ("torch", "torchvision", "transformers", "deepspeed", "peft", "safetensors", "numpy", "pycocotools")


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for, before anything is looked up."""

    plugin: str
    stage: str | None
    """None is the stage for own data."""
    variant: str | None = None
    extensions: tuple[str, ...] = ()
    config: Path | None = None
    sets: tuple[str, ...] = ()
    data: Path | None = None
    own: Path | None = None
    add: tuple[str, ...] = ()
    sources: tuple[str, ...] | None = None
    init: tuple[str, ...] = ()
    demo: bool = False
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None
    log_every: int | None = None
    tensorboard: bool = True
    quiet: bool = False
    max_steps: int | None = None
    track: Literal["trackio", "wandb", "swanlab"] | None = None


def settle(request: Request) -> tuple[OpenedPlugin, Settings, Origins]:
    """Resolve a request to complete settings, with the origin of every changed recipe entry.

    Raises:
        UsageError: a plugin, stage, variant, key or source does not exist, with the nearest name.
    """
    family = OpenedPlugin.open(request.plugin, request.extensions)
    variant = request.variant or _default_variant(family.plugin, request.demo)
    if request.stage is None and request.own is None:
        raise UsageError(
            "--stage is needed",
            where=f"plugin {family.plugin.label}",
            known=[f"{stage.number} {stage.name}" for stage in family.stages(variant)],
            do=f"choose one; `mmcore plugins show {family.plugin.name}` says what each does",
        )
    recipe = plugins.find_stage(family.stages(variant), request.stage or "finetune", family.plugin)
    stage, brought = _with_own_data(recipe, request, family)
    stage, origins = resolve(stage, request.config, request.sets, family.family.shorthands)
    stage, read = with_bases(stage, family, request.init, origins)
    if stage.data.list is not None and request.demo:  # the list may be one of the sample data
        family.write_demo(_data_root(request))
    stage, listed = with_listed(stage, family, _data_root(request))
    origins = {**brought, **read, **origins, **listed}
    only = _check_sources(request.sources, stage)
    stage = _with_class_names(stage, recipe, only, request, family, origins)
    settings = Settings(
        plugin=family.plugin.name,
        extensions=request.extensions,
        variant=variant,
        stage=stage,
        data=str(_data_root(request)),
        only=only,
        init=request.init,
        seed=request.seed,
        demo=request.demo,
        device=request.device,
        workers=_default_workers() if request.workers is None else request.workers,
        log_every=10 if request.log_every is None else request.log_every,
        tensorboard=request.tensorboard,
        quiet=request.quiet,
        max_steps=request.max_steps,
        track=request.track,
    )
    return family, settings, origins


def _with_own_data(stage: Stage, request: Request, family: OpenedPlugin) -> tuple[Stage, Origins]:
    """The stage with the data of --own and --add, and where its entries come from."""
    if request.own is None and not request.add:
        return stage, {}
    from mmcore.data.formats.registry import Formats
    from mmcore.runs.own import with_added, with_own

    formats, origins = Formats.of(family.formats()), dict[str, str]()
    files = [(with_own, request.own, f"--own {request.own}")] if request.own else []
    for make, file, option in [*files, *((with_added, added, f"--add {added}") for added in request.add)]:
        before = stage
        stage, notes = make(stage, file, formats, family.learns(), cache_folder(), family.family.judged)  # type: ignore[operator]
        for note in notes:
            print(note, file=sys.stderr)
        origins |= {f"data.sources.{name}": option for name in stage.data.sources if name not in before.data.sources}
        origins |= {f"validation.{name}": option for name in stage.validation if name not in before.validation}
    return stage, origins


def _with_class_names(
    stage: Stage,
    recipe: Stage,
    only: tuple[str, ...] | None,
    request: Request,
    family: OpenedPlugin,
    origins: Origins,
) -> Stage:
    """The stage with the class names of its sources where own data are among them and the family learns classes."""
    sources = _drawn_from(stage, only)
    if "detect" not in family.family.learns or "class_names" in origins or sources == recipe.data.sources:
        return stage
    from mmcore.data.formats.registry import Formats
    from mmcore.runs.own_classes import with_class_names

    if request.demo:  # its names are read too
        family.write_demo(_data_root(request))
    formats = Formats.of(family.formats())
    return with_class_names(stage, recipe, sources, formats, _data_root(request), cache_folder())


def _default_variant(plugin: plugins.Plugin, demo: bool) -> str:
    return "tiny" if demo and "tiny" in plugin.variants else plugin.variants[0]


def _default_workers() -> int:
    return max(0, min(4, (os.cpu_count() or 1) - 1))


def _data_root(request: Request) -> Path:
    if request.demo:
        if request.data is not None:
            raise UsageError("--demo makes its own data", where=f"--data {request.data}", do="leave one of the two out")
        return cache_folder() / "demo"
    given = request.data or os.environ.get("MMCORE_DATA")
    if given is None and request.own is not None:  # all that the run reads is described there
        return request.own.expanduser().absolute().parent
    return Path(given or "data").expanduser().absolute()


def cache_folder() -> Path:
    """Where indexes, demo data and features are cached: $MMCORE_CACHE, else the user's cache folder."""
    if "MMCORE_CACHE" in os.environ:
        return Path(os.environ["MMCORE_CACHE"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().absolute() / "mmcore"


def _check_sources(wanted: Sequence[str] | None, stage: Stage) -> tuple[str, ...] | None:
    known = list(stage.data.sources)
    for name in wanted or ():
        if name not in known:
            raise RecipeError(
                f"stage {stage.number} {stage.name} has no data source {name!r}",
                where=f"--sources {','.join(wanted or ())}",
                known=known,
                do=suggest(name, known, "choose among these"),
            )
    return tuple(wanted) if wanted else None


def active_sources(settings: Settings) -> dict[str, Source]:
    """The training sources this run draws from: those of the recipe with a weight, narrowed by --sources."""
    return _drawn_from(settings.stage, settings.only)


def _drawn_from(stage: Stage, only: tuple[str, ...] | None) -> dict[str, Source]:
    sources = {name: stage.data.sources[name] for name in only or tuple(stage.data.sources)}
    return {name: source for name, source in sources.items() if source.weight > 0}


def validations(settings: Settings) -> dict[str, Validation]:
    """The validation sets that training evaluates, by name."""
    return {name: entry for name, entry in settings.stage.validation.items() if entry.training}


def for_training(settings: Settings) -> Settings:
    """The settings without the validation sets that are left to `mmcore eval`."""
    best = settings.stage.best_metric
    sets = validations(settings)
    if best is not None and best.partition("/")[0] in settings.stage.validation.keys() - sets.keys():
        raise RecipeError(
            f"training does not evaluate {best!r}, so it cannot choose the best checkpoint",
            where="best_metric",
            do=f"--set validation.{best.partition('/')[0]}.training=true, or name another metric",
        )
    return settings.replace(stage=settings.stage.replace(validation=sets))


# Run folders


def write_config(settings: Settings, run_dir: Path, name: str = CONFIG_NAME) -> None:
    """Save the settings as `config.yaml`, or under another name."""
    run_dir.mkdir(parents=True, exist_ok=True)
    header = f"# mmcore {__version__}: the resolved settings of this run; `mmcore train --resume` needs nothing else\n"
    _write(run_dir / name, header + to_yaml(to_tree(settings)))


def read_settings(run_dir: Path, name: str = CONFIG_NAME) -> Settings:
    """The settings of a run folder, as `write_config` saved them.

    Raises:
        CheckpointError: it is not a run folder.
        RecipeError: its config.yaml was edited into something invalid.
    """
    path = run_dir / name
    if not path.is_file():
        _refuse_a_checkpoint(run_dir)
        near = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{CONFIG_NAME}")) if run_dir.parent.is_dir() else []
        raise CheckpointError(
            f"{run_dir} is not a run folder: it has no {name}",
            known=near or None,
            do=suggest(run_dir.name, near, "give the folder that --out named, or see `mmcore runs`"),
        )
    tree = read_yaml(path)
    if not isinstance(tree.get("stage"), dict):
        raise RecipeError("not the settings of a run", where=path)
    stage = from_tree(tree.pop("stage"), f"{path}, stage")
    try:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
        return Settings.model_validate({"stage": stage, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}", where=path) from None


def _refuse_a_checkpoint(path: Path) -> None:
    """Say so where a folder is not a run but a checkpoint, in its run or taken out of it."""
    run_dir, which = split(path)
    if which is not None and (run_dir / CONFIG_NAME).is_file():
        raise CheckpointError(f"{path} is a checkpoint, not its run", do=f"give the run: {run_dir}")
    if all((path / name).is_file() for name in (MANIFEST, STATE)):
        raise CheckpointError(
            f"{path} is a checkpoint without its run, whose {CONFIG_NAME} says what the model is",
            do="give RUN/checkpoints/STEP where it was trained, or take `mmcore export RUN --format hf` elsewhere",
        )


def write_run_record(
    settings: Settings,
    family: OpenedPlugin,
    run_dir: Path,
    fingerprints: Mapping[str, str],
    started_from: Sequence[Mapping[str, Any]],
    processes: int = 1,
) -> None:
    """Append this start to `run.json`: versions, plugins, data fingerprints, source revision, command."""
    path = run_dir / RUN_NAME
    starts = read_starts(run_dir)
    starts.append(
        {
            "mmcore": __version__,
            "api": API_VERSION,
            "plugin": {"name": family.plugin.name, "version": family.plugin.version},
            "extensions": {name: plugins.load(name).version for name in settings.extensions},
            "versions": {name: _version(name) for name in PRECIOUS_VERSIONS},
            "python": platform.python_version(),
            "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
            "git": _git_revision(),
            "command": sys.argv,
            "seed": settings.seed,
            "processes": processes,
            "data": dict(fingerprints),
            "weights": list(started_from),
        }
    )
    _write(path, json.dumps({"starts": starts}, indent=2) + "\n")


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """The starts of a run that `run.json` tells of, the first one first; none without the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run_dir / RUN_NAME
    if not path.exists():
        return []
    try:
        starts = read_json(path, {"starts": list})["starts"]
        if not all(isinstance(start, dict) for start in starts):
            raise ValueError("a start is no object")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{RUN_NAME} is damaged: {error}", where=path, do="remove it: it is a record, and a resume writes it anew"
        ) from None
    return starts


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", do="free space or choose another --out"
        ) from None
