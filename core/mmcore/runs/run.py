"""A run, top to bottom: settings -> plugin, data, order, model, weights -> training -> what comes after it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.errors import CheckpointError, DataError
from mmcore.runs.before import measure_before
from mmcore.runs.build import (
    adapt,
    attach,
    build_datasets,
    build_model,
    build_order,
    choose_device,
    data_context,
    prepare_demo,
    total_steps,
)
from mmcore.runs.checks import check_metrics
from mmcore.runs.config import to_tree
from mmcore.runs.settings import CONFIG_NAME, Family, Settings, read_settings, write_config, write_run_record

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.data.loader import Loader


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What `post_train` is given: a finished run and its model with the final weights, on the CPU."""

    settings: Settings
    run_dir: Path
    model: "Model"
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def start_run(
    family: Family, settings: Settings, out: Path | None, *, nproc: int = 1, hostfile: Path | None = None
) -> Path:
    """Train in a new run folder, here or in processes of its own.

    Returns:
        The run folder.
    Raises:
        CheckpointError: the folder already holds a run, or is in use.
    """
    from mmcore.base import distributed
    from mmcore.train.track import check_installed

    run_dir = default_folder(settings) if out is None else out
    if distributed.place().is_first and (run_dir / CONFIG_NAME).exists() and not _launched():
        raise CheckpointError(
            f"{run_dir} already holds a run",
            where=f"--out {run_dir}",
            do=f"continue it with `mmcore train --resume {run_dir}`, or choose another --out",
        )
    if settings.track:
        check_installed(settings.track)
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
        _launch(run_dir, nproc, hostfile, max_steps)
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


def _launch(run_dir: Path, nproc: int, hostfile: Path | None, max_steps: int | None = None) -> None:
    """Processes that continue the run whose settings are in the folder; each reads them there."""
    from mmcore.train.launch import launch

    limit = [] if max_steps is None else ["--max-steps", str(max_steps)]
    launch(["train", "--resume", str(run_dir), *limit], nproc=nproc, hostfile=hostfile)


def _launched() -> bool:
    """Whether an outer launcher started this process beside others."""
    from mmcore.base import distributed

    return distributed.place().world_size > 1


def _train(family: Family, settings: Settings, run_dir: Path, *, resume: bool) -> None:
    """Build everything and train, on this process."""
    from mmcore.base import distributed
    from mmcore.base.lock import refuse_if_held
    from mmcore.data.loader import Loader
    from mmcore.runs.initialise import initialise
    from mmcore.train import checkpoint
    from mmcore.train.loop import TrainSetup, accumulation, train
    from mmcore.train.track import Tracker

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
        no_best = check_metrics(stage, validation, settings.only)
        if no_best:
            stage = stage.replace(best_metric=None)
            if here.is_first:
                print(no_best, file=sys.stderr)
        model = build_model(family, settings)
        attach(model, settings, run_dir)
        fresh = not checkpoint.steps_of(run_dir)
        started_from = initialise(model, stage, settings.init, Path(settings.data)) if fresh else []
        adapt(model, settings)
        if here.is_first:
            model.keep_files(run_dir)
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
        if fresh and validation:
            before = partial(_before, settings, validation)
            measure_before(model.to(choose_device(settings)), stage, validation.evaluators, before, run_dir)
        setup = TrainSetup(
            stage=stage,
            model=model,
            batches=loader,
            run_dir=run_dir,
            steps=total_steps(settings, sum(len(datasets.sources[name]) for name in order.names)),
            stop_step=settings.max_steps,
            seed=settings.seed,
            device=choose_device(settings),
            resume=resume or not fresh,
            evaluate=_evaluation(settings, validation, loader, run_dir)
            if validation and validation.evaluators
            else None,
            picture=partial(_picture, datasets),
            log_every=settings.log_every,
            tensorboard=settings.tensorboard,
            show=not settings.quiet,
            open_tracker=partial(Tracker, settings.track, run_dir, to_tree(settings)) if settings.track else None,
        )
        try:
            trained = train(setup)
        finally:
            loader.close()
            _tell_bad_samples(loader.bad.summary(), run_dir)
            if loader.cut:
                print(f"samples cut at max_length by this process: {loader.cut}", file=sys.stderr)
        if here.is_first:
            _finish(family, settings, run_dir, trained.step, trained.metrics)
        distributed.barrier()
        if trained.evaluation_failed is not None:
            raise DataError(
                f"the training is complete and saved; its last evaluation failed: {trained.evaluation_failed}",
                where=run_dir,
                do=f"repair what it names, then `mmcore train --resume {run_dir}` makes the evaluation up",
            )
    finally:
        distributed.stop()


def _tell_bad_samples(summary: Mapping[str, Any], run_dir: Path) -> None:
    """One line when samples could not be used; the list lies in the run folder."""
    from mmcore.data.bad import FILE_NAME

    if summary["bad"]:
        counts = ", ".join(f"{source} {count}" for source, count in summary["bad"].items())
        print(f"samples that could not be used and were replaced: {counts}; see {run_dir / FILE_NAME}", file=sys.stderr)


def _evaluation(settings: Settings, validation: "Datasets | None", loader: "Loader", run_dir: Path) -> Any:
    """The loop's evaluation: every validation set, metrics under `SET/NAME`, predictions kept for the newest only.

    Records that cannot be read follow the policy of the training data, and are listed beside its bad samples.
    """

    if validation is None or not validation.evaluators:
        return None

    def run(model: "nn.Module", step: int) -> dict[str, float]:
        del step
        metrics: dict[str, float] = {}
        for source in validation.evaluators:
            found = _measured(settings, validation, source, model, run_dir / "evals" / source)
            metrics |= {f"{source}/{name}": value for name, value in found.items()}
        return metrics

    return run


def _before(settings: Settings, validation: "Datasets", model: "nn.Module", source: str) -> dict[str, float]:
    return _measured(settings, validation, source, model, None)


def _measured(
    settings: Settings, validation: "Datasets", source: str, model: "nn.Module", folder: Path | None
) -> dict[str, float]:
    """Metrics of one validation set during training."""
    from mmcore.base import distributed
    from mmcore.evaluate.run import evaluate
    from mmcore.train.objective import DTYPES

    return evaluate(
        model,
        validation,
        settings.stage,
        source,
        device=choose_device(settings),
        distributed=distributed.place(),
        folder=folder,
        autocast=DTYPES[settings.stage.precision],
    )


def _picture(datasets: "Datasets", batch: Any, folder: Path) -> None:
    """Draw the images of a batch that stopped the run, as the network saw them."""
    from mmcore.contract.values import DetectionBatch
    from mmcore.show.draw import draw_row

    collate = datasets.collate.get(batch.source)
    if isinstance(batch, DetectionBatch):
        pictures = [draw_row(batch, row, names=getattr(batch, "names", None)) for row in range(len(batch))]
    elif collate is not None and hasattr(collate, "draw"):
        pictures = collate.draw(batch.to("cpu"))  # type: ignore[attr-defined]
    else:
        pictures = []
    for row, picture in enumerate(pictures):
        picture.save(folder / f"image-{row}.png")


def _finish(family: Family, settings: Settings, run_dir: Path, step: int, metrics: Mapping[str, float]) -> None:
    """After the last step, on the first process: curves, then the plugins' own work with the final weights."""
    from mmcore.runs.opened import open_model
    from mmcore.show.plots import plot_curves

    if (run_dir / "metrics.jsonl").exists():
        plot_curves(run_dir)
    opened = open_model(run_dir)
    finished = FinishedRun(settings, run_dir, opened.model, step, dict(metrics))
    if family.hooks.hook.post_train.get_hookimpls():
        family.call("post_train", run=finished)
