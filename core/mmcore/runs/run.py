"""A run, top to bottom: settings -> plugin, data, order, model, weights -> training -> what comes after it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base.lock import run_lock
from mmcore.base.terminal import tell
from mmcore.base.yamltext import to_yaml
from mmcore.contract.run import FinishedRun
from mmcore.errors import CheckpointError, DataError
from mmcore.runs.begin import Start, begun, forget_former
from mmcore.runs.build import choose_device, data_context, prepare_demo
from mmcore.runs.config import to_tree
from mmcore.runs.evaluation import evaluation_of, measure_start
from mmcore.runs.material import Material, open_material
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.resume import Changes, changed
from mmcore.runs.settings import CONFIG_NAME, Settings, read_settings, write_config, write_run_record
from mmcore.train.stored import steps_of

if TYPE_CHECKING:
    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.data.loader import Loader
    from mmcore.train.loop import TrainSetup
    from mmcore.weights.fill import Keeping


def start_run(
    family: OpenedPlugin, settings: Settings, out: Path | None, *, nproc: int = 1, hostfile: Path | None = None
) -> Path:
    """Train in a new run folder, here or in processes of its own.

    Returns:
        The run folder.
    Raises:
        CheckpointError: the folder already holds a run, or is in use.
    """
    from mmcore.train.track import check_installed

    run_dir = default_folder(settings) if out is None else out
    if settings.track:
        check_installed(settings.track)
    prepare_demo(family, settings)
    data_context(settings)
    if nproc > 1 or hostfile is not None:
        with begun(run_dir) as start:
            with run_lock(run_dir):
                _refuse_a_second(run_dir)
                write_config(settings, run_dir, start.handed_over)
            try:
                _launch(run_dir, nproc, hostfile, ["--starting", start.handed_over])
            finally:
                start.stands = not (run_dir / start.handed_over).exists()
        return run_dir
    _train(family, settings, run_dir, settings, resume=False)
    return run_dir


def _refuse_a_second(run_dir: Path) -> None:
    """A folder with a checkpoint is a run's; what a start without one left behind is nobody's."""
    if steps_of(run_dir):
        raise CheckpointError(
            f"{run_dir} already holds a run",
            where=f"--out {run_dir}",
            do=f"continue it with `mmcore train --resume {run_dir}`, or choose another --out",
        )


def started_run(run_dir: Path, handed_over: str) -> None:
    """One process of several of a new run whose settings its launcher left in a file of this name in the folder."""
    settings = read_settings(run_dir, handed_over)
    family = OpenedPlugin.open(settings.plugin, settings.extensions)
    _train(family, settings, run_dir, settings, resume=False, handed_over=handed_over)


def resume_run(run_dir: Path, changes: Changes, *, nproc: int = 1, hostfile: Path | None = None) -> Path:
    """Continue the run in a folder from its newest whole checkpoint, or from the start when it has none.

    Raises:
        CheckpointError: it is not a run folder, is in use, or all its checkpoints are damaged.
        DataError: the data is not what it was started with.
        UsageError: a change that would make another run of it.
    """
    settings, kept = changed(read_settings(run_dir), changes)
    if nproc > 1 or hostfile is not None:
        _launch(run_dir, nproc, hostfile, changes.arguments())
        return run_dir
    family = OpenedPlugin.open(settings.plugin, settings.extensions)
    _train(family, settings, run_dir, kept, resume=True, changed_data=changes.allow_changed_data)
    return run_dir


def default_folder(settings: Settings) -> Path:
    """`runs/PLUGIN-STAGE-VARIANT`, with a number when that exists."""
    name = f"{settings.plugin}-{settings.stage.name}-{settings.variant}" + ("-demo" if settings.demo else "")
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _launch(run_dir: Path, nproc: int, hostfile: Path | None, options: Sequence[str]) -> None:
    """Processes that start or continue the run whose settings are in the folder; each reads them there."""
    from mmcore.train.launch import launch

    launch(["train", "--resume", str(run_dir), *options], nproc=nproc, hostfile=hostfile)


def _launched() -> bool:
    """Whether an outer launcher started this process beside others."""
    from mmcore.base import distributed

    return distributed.place().world_size > 1


def _train(
    family: OpenedPlugin,
    settings: Settings,
    run_dir: Path,
    kept: Settings,
    *,
    resume: bool,
    changed_data: bool = False,
    handed_over: str | None = None,
) -> None:
    """Build everything and train, on this process; why it failed stands in the run's log.

    Args:
        family: the plugin.
        settings: of this start.
        run_dir: the run folder.
        kept: what the run folder keeps of them.
        resume: whether to go on with the run in the folder.
        changed_data: whether it may go on with other data.
        handed_over: the file of the folder that its launcher wrote the settings to, if one did.
    """
    from mmcore.base import distributed
    from mmcore.train.metrics import log_failure

    here = distributed.start(choose_device(settings))
    with ExitStack() as stack:
        stack.callback(distributed.stop)
        start = None if resume or not here.is_first else stack.enter_context(begun(run_dir, handed_over))
        if here.is_first:
            # The lock comes first: a start that is refused must not have written anything.
            stack.enter_context(run_lock(run_dir))
            if not resume and not _launched():
                _refuse_a_second(run_dir)
        try:
            _train_locked(family, settings, run_dir, kept, start, resume=resume, changed_data=changed_data)
        except Exception as error:
            if resume or (run_dir / CONFIG_NAME).exists():
                log_failure(run_dir, error, here.rank)
            raise


def _train_locked(
    family: OpenedPlugin,
    settings: Settings,
    run_dir: Path,
    kept: Settings,
    start: Start | None,
    *,
    resume: bool,
    changed_data: bool,
) -> None:
    from mmcore.base import distributed
    from mmcore.runs.initialise import resumed_model, starting_model
    from mmcore.train.loop import train
    from mmcore.train.partition import keeping_of

    here = distributed.place()
    if here.is_first:
        prepare_demo(family, settings)
    distributed.barrier()
    material = open_material(family, settings, run_dir, changed_data=changed_data)
    keeping = keeping_of(material.stage, choose_device(settings), here.world_size)
    open_model = starting_model if material.fresh else resumed_model
    model, started_from = open_model(family, settings, run_dir, keeping)
    if here.is_first:
        _stand(family, settings, run_dir, kept, start, material, model, started_from)
    loader = _loader(material, settings.workers, run_dir)
    measuring = material.measuring
    if material.fresh and measuring and any(entry.before for entry in material.stage.validation.values()):
        measure_start(measuring, model, run_dir)
    setup = _setup(settings, run_dir, material, model, loader, keeping, resume=resume)
    try:
        trained = train(setup)
    finally:
        loader.close()
        _tell_bad_samples(loader, run_dir)
    if here.is_first:
        _finish(family, settings, run_dir, model, trained.step, trained.metrics)
    distributed.barrier()
    if trained.evaluation_failed is not None:
        raise _evaluation_lacks(run_dir, trained.evaluation_failed)


def _stand(
    family: OpenedPlugin,
    settings: Settings,
    run_dir: Path,
    kept: Settings,
    start: Start | None,
    material: Material,
    model: "Model",
    started_from: "Sequence[Mapping[str, Any]]",
) -> None:
    """Write what makes the folder a run. Not before everything is open: a start that fails leaves the folder free."""
    from mmcore.base import distributed
    from mmcore.runs.initialise import told_start

    if start is not None and material.fresh:
        forget_former(run_dir)
    write_config(kept, run_dir)
    material.tell_left_out()
    model.keep_files(run_dir)
    processes = distributed.place().world_size
    write_run_record(settings, family, run_dir, material.fingerprints, started_from, processes)
    for record in started_from:
        tell(told_start(record))
    if start is not None:
        start.stand()


def _setup(
    settings: Settings,
    run_dir: Path,
    material: Material,
    model: "Model",
    loader: "Loader",
    keeping: "Keeping",
    *,
    resume: bool,
) -> "TrainSetup":
    """What the trainer is given."""
    from mmcore.show.plots import plot_curves
    from mmcore.train.loop import TrainSetup
    from mmcore.train.track import Tracker

    measuring, tree = material.measuring, to_tree(settings)
    return TrainSetup(
        stage=material.stage,
        model=model,
        batches=loader,
        run_dir=run_dir,
        steps=material.steps,
        stop_step=settings.max_steps,
        seed=settings.seed,
        device=choose_device(settings),
        keeping=keeping,
        resume=resume or not material.fresh,
        evaluate=evaluation_of(measuring, run_dir, loader.bad.take) if measuring else None,
        picture=partial(_picture, material.datasets),
        log_every=settings.log_every,
        tensorboard=settings.tensorboard,
        settings=to_yaml(tree),
        draw_curves=partial(plot_curves, run_dir),
        show=not settings.quiet,
        open_tracker=partial(Tracker, settings.track, run_dir, tree) if settings.track else None,
    )


def _loader(material: Material, workers: int, run_dir: Path) -> "Loader":
    """This process' share of the samples, by the recipe's order and its policy about bad ones."""
    from mmcore.base import distributed
    from mmcore.data.loader import Loader
    from mmcore.train.loop import accumulation

    here, stage = distributed.place(), material.stage
    return Loader(
        material.datasets,
        material.order,
        rank=here.rank,
        world_size=here.world_size,
        accumulation=accumulation(stage, here.world_size),
        num_workers=workers,
        policy=stage.data.bad_samples,
        max_in_a_row=stage.data.max_bad_in_a_row,
        run_folder=run_dir,
    )


def _evaluation_lacks(run_dir: Path, failed: str) -> DataError:
    return DataError(
        f"the training is complete and saved; its last evaluation failed: {failed}",
        where=run_dir,
        do=f"repair what it names, then `mmcore train --resume {run_dir}` makes the evaluation up",
    )


def _tell_bad_samples(loader: "Loader", run_dir: Path) -> None:
    """A line when samples could not be used, whose list lies in the run folder, and one when some were cut."""
    from mmcore.data.bad import FILE_NAME

    summary = loader.bad.summary()
    if summary["bad"]:
        counts = ", ".join(f"{source} {count}" for source, count in summary["bad"].items())
        tell(f"samples that could not be used and were replaced: {counts}; see {run_dir / FILE_NAME}")
    if loader.cut:
        tell(f"samples cut at max_length by this process: {loader.cut}")


def _picture(datasets: "Datasets", batch: Any, folder: Path) -> None:
    """Draw the images of a batch that stopped the run, as the network saw them."""
    from mmcore.show.batch import draw_batch

    try:
        pictures = draw_batch(batch.to("cpu"), datasets.collate[batch.source])
    except DataError:  # a batch without images
        pictures = []
    for row, picture in enumerate(pictures):
        picture.save(folder / f"image-{row}.png")


def _finish(
    family: OpenedPlugin, settings: Settings, run_dir: Path, model: "Model", step: int, metrics: Mapping[str, float]
) -> None:
    """After the last step, on the first process: curves, then the plugins' own work with the final weights."""
    from mmcore.runs.opened import open_model
    from mmcore.show.plots import plot_curves
    from mmcore.weights.fill import widen

    if (run_dir / "metrics.jsonl").exists():
        plot_curves(run_dir)
    if not family.implements("post_train"):
        return
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):  # under ZeRO-3 this process has a part
        model = open_model(run_dir).model
    else:
        model = model.to("cpu").eval()
        widen(model)
    family.call("post_train", run=FinishedRun(settings, run_dir, model, step, dict(metrics)))
