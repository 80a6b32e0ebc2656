"""A run, top to bottom: command line -> resolved settings -> plugin, model, data -> training, or an opened run.

`Settings` is what `config.yaml` in a run folder holds and all that --resume needs. Everything above the line
"needs torch" works without it, so `mmcore plan --no-build` and error messages are quick.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy
from pydantic import ValidationError

from mmcore import plugins
from mmcore.config import Origins, from_tree, parse_yaml, resolve, to_tree, to_yaml
from mmcore.errors import (
    CheckpointError,
    DataError,
    MissingDataError,
    PluginError,
    RecipeError,
    UsageError,
    WeightsError,
    suggest,
)
from mmcore.recipe import Recipe, Source, Stage, Validation
from mmcore.version import API_VERSION, __version__

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmcore.data.order import Order
    from mmcore.data.sources import DataContext, Datasets

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"
PRECIOUS_VERSIONS = ("torch", "torchvision", "transformers", "deepspeed", "peft", "safetensors", "numpy", "pycocotools")


class Settings(Recipe):
    """One run, complete: the resolved stage and everything outside the recipe."""

    plugin: str
    extensions: tuple[str, ...] = ()
    variant: str
    stage: Stage
    data: str
    """Data root."""
    only: tuple[str, ...] | None = None
    """Sources named by --sources; None is all of them."""
    init: tuple[str, ...] = ()
    """Where the weights start: run folders, checkpoint files, Hub names, or "random"."""
    seed: int = 0
    demo: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 2
    log_every: int = 10
    max_steps: int | None = None
    """Stop after this many optimiser steps although the schedule goes on (--max-steps)."""


@dataclass(frozen=True, slots=True)
class Family:
    """The chosen plugin with its verified hooks."""

    plugin: plugins.Plugin
    hooks: pluggy.PluginManager

    @classmethod
    def open(cls, name: str, extensions: Sequence[str] = ()) -> "Family":
        """Load one family and the named extensions.

        Raises:
            PluginError: one of them is missing, broken or incompatible.
        """
        plugin = plugins.load(name)
        return cls(plugin, plugins.manager(plugin, extensions))

    def stages(self, variant: str) -> tuple[Stage, ...]:
        return plugins.stages(self.hooks, self.plugin, variant)

    def call(self, hook: str, **arguments: Any) -> Any:
        return plugins.call(self.hooks, self.plugin, hook, **arguments)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for, before anything is looked up."""

    plugin: str
    stage: str
    variant: str | None = None
    extensions: tuple[str, ...] = ()
    config: Path | None = None
    sets: tuple[str, ...] = ()
    data: Path | None = None
    sources: tuple[str, ...] | None = None
    init: tuple[str, ...] = ()
    demo: bool = False
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None
    log_every: int | None = None
    max_steps: int | None = None


def settle(request: Request) -> tuple[Family, Settings, Origins]:
    """Resolve a request to complete settings, with the origin of every changed recipe entry.

    Raises:
        UsageError: a plugin, stage, variant, key or source does not exist, with the nearest name.
    """
    family = Family.open(request.plugin, request.extensions)
    variant = request.variant or _default_variant(family.plugin, request.demo)
    stage = plugins.find_stage(family.stages(variant), request.stage, family.plugin)
    stage, origins = resolve(stage, request.config, request.sets)
    only = _check_sources(request.sources, stage)
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
        max_steps=request.max_steps,
    )
    return family, settings, origins


def _default_variant(plugin: plugins.Plugin, demo: bool) -> str:
    if demo and "tiny" in plugin.variants:
        return "tiny"
    return plugin.variants[0] if plugin.variants else "default"


def _default_workers() -> int:
    return max(0, min(4, (os.cpu_count() or 1) - 1))


def _data_root(request: Request) -> Path:
    if request.demo:
        if request.data is not None:
            raise UsageError("--demo makes its own data", where=f"--data {request.data}", do="leave one of the two out")
        return cache_folder() / "demo"
    return (request.data or Path(os.environ.get("MMCORE_DATA", "data"))).expanduser().absolute()


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
    chosen = settings.only or tuple(settings.stage.data.sources)
    sources = {name: settings.stage.data.sources[name] for name in chosen}
    return {name: source for name, source in sources.items() if source.weight > 0}


def validations(settings: Settings) -> dict[str, Validation]:
    """The validation sets of the recipe by name."""
    return {validation.source: validation for validation in settings.stage.validation}


# Run folders


def write_config(settings: Settings, run_dir: Path) -> None:
    """Save the settings as `config.yaml`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    header = f"# mmcore {__version__}: the resolved settings of this run; `mmcore train --resume` needs nothing else\n"
    _write_atomically(run_dir / CONFIG_NAME, header + to_yaml(to_tree(settings)))


def read_settings(run_dir: Path) -> Settings:
    """The settings of a run folder.

    Raises:
        CheckpointError: it is not a run folder.
        RecipeError: its config.yaml was edited into something invalid.
    """
    path = run_dir / CONFIG_NAME
    if not path.is_file():
        near = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{CONFIG_NAME}")) if run_dir.parent.is_dir() else []
        raise CheckpointError(
            f"{run_dir} is not a run folder: it has no {CONFIG_NAME}",
            known=near or None,
            do=suggest(run_dir.name, near, "give the folder that --out named, or see `mmcore runs`"),
        )
    tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict) or not isinstance(tree.get("stage"), dict):
        raise RecipeError("not the settings of a run", where=path)
    stage = from_tree(tree.pop("stage"), f"{path}, stage")
    try:
        return Settings(
            stage=stage, **{key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}", where=path) from None


def write_run_record(
    settings: Settings,
    family: Family,
    run_dir: Path,
    fingerprints: Mapping[str, str],
    started_from: Sequence[Mapping[str, Any]],
) -> None:
    """Append this start to `run.json`: versions, plugins, data fingerprints, source revision, command."""
    path = run_dir / RUN_NAME
    record = json.loads(path.read_text()) if path.exists() else {"starts": []}
    record["starts"].append(
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
            "data": dict(fingerprints),
            "weights": list(started_from),
        }
    )
    _write_atomically(path, json.dumps(record, indent=2) + "\n")


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


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror}", do="free space or choose another --out") from None


# Needs torch


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What `post_train` is given: a finished run and its model with the final weights, on the CPU."""

    settings: Settings
    run_dir: Path
    model: "nn.Module"
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A trained model ready for evaluation, prediction or export."""

    model: "nn.Module"
    settings: Settings
    family: Family
    run_dir: Path | None
    step: int
    origin: str
    """The checkpoint its weights came from, for messages."""


def build_model(family: Family, settings: Settings) -> "nn.Module":
    """The family's module for these settings, seeded, with freshly initialised weights.

    Raises:
        PluginError: the hook fails or returns something that is not a model.
    """
    import torch

    torch.manual_seed(settings.seed)
    model = family.call("build_model", stage=settings.stage, variant=settings.variant)
    if not isinstance(model, torch.nn.Module) or not callable(getattr(model, "predict", None)):
        raise PluginError(
            f"build_model returned {type(model).__name__}, not a module with forward and predict",
            where=f"plugin {family.plugin.label}",
            do="see the model contract in the documentation of mmcore.model",
        )
    return model


def data_context(settings: Settings) -> "DataContext":
    """Where the data of this run lies; makes the sample data of --demo."""
    from mmcore.data.sources import DataContext

    root = Path(settings.data)
    if not root.is_dir():
        raise MissingDataError(
            f"there is no data folder {root}",
            where="--data or $MMCORE_DATA",
            do="give the folder with --data, or try the built-in sample data with --demo",
        )
    return DataContext(
        root=root, cache=cache_folder(), variant=settings.variant, seed=settings.seed, only=settings.only
    )


def prepare_demo(family: Family, settings: Settings) -> None:
    """Write the sample data of --demo where the settings expect it; returns at once when it is there."""
    if not settings.demo:
        return
    write = getattr(family.plugin.module, "write_demo", None)
    if write is None:
        from mmcore.data.demo import write_demo as write
    write(Path(settings.data))


def build_datasets(family: Family, settings: Settings, split: str) -> "Datasets":
    """The joined answers of the family and its extensions for one split.

    Raises:
        PluginError: two plugins give the same source, or one returns something else than Datasets.
        DataError: a source the recipe draws from is given by nobody.
    """
    from mmcore.data.sources import Datasets

    answers = family.call("build_datasets", stage=settings.stage, split=split, context=data_context(settings))
    parts = [answer for answer in answers if answer is not None]
    for part in parts:
        if not isinstance(part, Datasets):
            raise PluginError(
                f"build_datasets returned {type(part).__name__}, not mmcore.Datasets",
                where=f"plugin {family.plugin.label} or one of {', '.join(settings.extensions) or 'no extensions'}",
            )
    joined = Datasets(
        sources=_join([part.sources for part in parts], family),
        collate=_join([part.collate for part in parts], family),
        evaluators=_join([part.evaluators for part in parts], family),
    )
    if split == "train":
        for name in active_sources(settings):
            if name not in joined.sources:
                raise DataError(
                    f"no plugin gives the data source {name!r}",
                    where=f"stage {settings.stage.number} {settings.stage.name}",
                    known=joined.sources,
                    do="install the extension that brings it and add --with, or narrow the run with --sources",
                )
    return joined


def _join(parts: Sequence[Mapping[str, Any]], family: Family) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in result:
                raise PluginError(
                    f"two plugins give the data source {name!r}",
                    where=f"--plugin {family.plugin.name} and its --with extensions",
                    do="leave one extension out, or rename its source",
                )
            result[name] = value
    return result


def build_order(settings: Settings, datasets: "Datasets") -> "Order":
    """The training order over the active sources."""
    from mmcore.data.order import Order

    data = settings.stage.data
    sources = active_sources(settings)
    if not sources:
        raise RecipeError("no data source has a weight above 0", where="data.sources")
    return Order(
        sizes={name: len(datasets.sources[name]) for name in sources},
        weights={name: source.weight for name, source in sources.items()},
        micro_batch={name: source.micro_batch or settings.stage.micro_batch for name, source in sources.items()},
        groups={name: datasets.sources[name].aspect_groups() for name in sources} if data.group_by_aspect else None,
        replacement=data.replacement,
        one_source_per_batch=data.one_source_per_batch,
        seed=settings.seed,
    )


def choose_device(settings: Settings) -> "torch.device":
    """The device this process trains on."""
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", where="--device cuda", do="leave --device out, or see `mmcore doctor`")
    kind = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")


def start_run(
    family: Family, settings: Settings, out: Path | None, *, nproc: int = 1, hostfile: Path | None = None
) -> Path:
    """Train in a new run folder, here or in processes of its own.

    Returns:
        The run folder.
    Raises:
        CheckpointError: the folder already holds a run, or is in use.
    """
    from mmcore.train import distributed

    run_dir = default_folder(settings) if out is None else out
    if distributed.place().is_first and (run_dir / CONFIG_NAME).exists() and not _launched():
        raise CheckpointError(
            f"{run_dir} already holds a run",
            where=f"--out {run_dir}",
            do=f"continue it with `mmcore train --resume {run_dir}`, or choose another --out",
        )
    prepare_demo(family, settings)
    data_context(settings)
    if nproc > 1 or hostfile is not None:
        write_config(settings, run_dir)
        _launch(run_dir, nproc, hostfile)
        return run_dir
    if distributed.place().is_first:
        write_config(settings, run_dir)
    _train(family, settings, run_dir, resume=False)
    return run_dir


def resume_run(run_dir: Path, *, nproc: int = 1, hostfile: Path | None = None, max_steps: int | None = None) -> Path:
    """Continue the run in a folder from its newest whole checkpoint, or from the start when it has none.

    Raises:
        CheckpointError: it is not a run folder, is in use, or all its checkpoints are damaged.
    """
    settings = read_settings(run_dir)
    if nproc > 1 or hostfile is not None:
        _launch(run_dir, nproc, hostfile)
        return run_dir
    family = Family.open(settings.plugin, settings.extensions)
    if max_steps is not None:
        settings = settings.replace(max_steps=max_steps)
    _train(family, settings, run_dir, resume=True)
    return run_dir


def default_folder(settings: Settings) -> Path:
    """`runs/PLUGIN-STAGE-VARIANT`, with a number when that exists."""
    name = f"{settings.plugin}-{settings.stage.name}-{settings.variant}" + ("-demo" if settings.demo else "")
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _launch(run_dir: Path, nproc: int, hostfile: Path | None) -> None:
    """Processes that continue the run whose settings were just written; each reads them from the folder."""
    from mmcore.train.launch import launch

    launch(["train", "--resume", str(run_dir)], nproc=nproc, hostfile=hostfile)


def _launched() -> bool:
    """Whether an outer launcher started this process beside others."""
    from mmcore.train import distributed

    return distributed.place().world_size > 1


def _train(family: Family, settings: Settings, run_dir: Path, *, resume: bool) -> None:
    """Build everything and train, on this process."""
    from mmcore.data.loader import Loader
    from mmcore.initialise import initialise
    from mmcore.plan import total_steps
    from mmcore.train import checkpoint, distributed
    from mmcore.train.lock import refuse_if_held
    from mmcore.train.loop import TrainSetup, accumulation, train

    stage = settings.stage
    here = distributed.start(choose_device(settings))
    try:
        if here.is_first:
            refuse_if_held(run_dir)
            prepare_demo(family, settings)
        distributed.barrier()
        datasets = build_datasets(family, settings, "train")
        validation = build_datasets(family, settings, "val") if stage.validation else None
        order = build_order(settings, datasets)
        model = build_model(family, settings)
        fresh = not checkpoint.steps_of(run_dir)
        started_from = initialise(model, stage, settings.init, Path(settings.data)) if fresh else []
        if here.is_first:
            fingerprints = {name: datasets.sources[name].fingerprint for name in order.names}
            write_run_record(settings, family, run_dir, fingerprints, started_from)
        loader = Loader(
            datasets,
            order,
            rank=here.rank,
            world_size=here.world_size,
            accumulation=accumulation(stage, here.world_size),
            num_workers=settings.workers,
            policy=stage.data.bad_samples,
            max_in_a_row=stage.data.max_bad_in_a_row,
            run_folder=run_dir,
        )
        setup = TrainSetup(
            stage=_with_known_best(stage, validation),
            model=model,
            batches=loader,
            run_dir=run_dir,
            steps=total_steps(settings, sum(len(datasets.sources[name]) for name in order.names)),
            stop_step=settings.max_steps,
            seed=settings.seed,
            device=choose_device(settings),
            resume=resume or not fresh,
            evaluate=_evaluation(settings, validation, run_dir) if validation else None,
            picture=_picture,
            log_every=settings.log_every,
        )
        try:
            trained = train(setup)
        finally:
            loader.close()
        if here.is_first:
            _finish(family, settings, run_dir, trained.step, trained.metrics)
        distributed.barrier()
    finally:
        distributed.stop()


def _with_known_best(stage: Stage, validation: "Datasets | None") -> Stage:
    """The stage without a best metric whose validation set this run does not evaluate."""
    if stage.best_metric is None:
        return stage
    known = validation.evaluators if validation else {}
    return stage if any(stage.best_metric.startswith(f"{name}/") for name in known) else stage.replace(best_metric=None)


def _evaluation(settings: Settings, validation: "Datasets", run_dir: Path) -> Any:
    """The loop's evaluation: every validation set, metrics under `SET/NAME`, predictions kept for the newest only."""
    from mmcore.evaluate.run import evaluate
    from mmcore.train import distributed
    from mmcore.train.objective import DTYPES

    def run(model: "nn.Module", step: int) -> dict[str, float]:
        del step
        metrics: dict[str, float] = {}
        for source in validation.evaluators:
            found = evaluate(
                model,
                validation,
                settings.stage,
                source,
                device=choose_device(settings),
                batch_size=settings.stage.micro_batch,
                distributed=distributed.place(),
                folder=run_dir / "evals" / source,
                autocast=DTYPES[settings.stage.precision],
            )
            metrics |= {f"{source}/{name}": value for name, value in found.items()}
        return metrics

    return run


def _picture(batch: Any, folder: Path) -> None:
    """Draw the images of a batch that stopped the run, as the network saw them."""
    from mmcore.draw import draw_row
    from mmcore.types import DetectionBatch

    for row in range(len(batch)) if isinstance(batch, DetectionBatch) else ():
        draw_row(batch, row, names=getattr(batch, "names", None)).save(folder / f"image-{row}.png")


def _finish(family: Family, settings: Settings, run_dir: Path, step: int, metrics: Mapping[str, float]) -> None:
    """After the last step, on the first process: curves, then the plugins' own work with the final weights."""
    from mmcore.plots import plot_curves

    if (run_dir / "metrics.jsonl").exists():
        plot_curves(run_dir)
    opened = open_model(run_dir)
    finished = FinishedRun(settings, run_dir, opened.model, step, dict(metrics))
    if family.hooks.hook.post_train.get_hookimpls():
        family.call("post_train", run=finished)


def open_model(target: str | Path, *, checkpoint: str = "last") -> OpenedModel:
    """A trained model from a run folder, one of its checkpoints, or a folder that `mmcore export --format hf` wrote.

    Args:
        target: the folder.
        checkpoint: "last", "best" or a step, for a run folder.

    Raises:
        CheckpointError: there is nothing to open, or it is damaged.
        PluginError: the plugin it was trained with is missing or broken.
    """
    from mmcore.export import CONFIG, from_pretrained, load_exactly
    from mmcore.train.checkpoint import load

    path = Path(target)
    if (path / CONFIG).is_file() and not (path / CONFIG_NAME).is_file():
        return from_pretrained(path)
    run_dir = path.parent.parent if path.parent.name == "checkpoints" else path
    settings = read_settings(run_dir)
    family = Family.open(settings.plugin, settings.extensions)
    loaded = load(path if run_dir != path else run_dir, checkpoint)
    model = build_model(family, settings)
    load_exactly(model, loaded.weights, str(loaded.path))
    return OpenedModel(model.eval(), settings, family, run_dir, loaded.step, str(loaded.path))
