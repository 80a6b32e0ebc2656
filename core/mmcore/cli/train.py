"""`mmcore train`: a new run, or one that goes on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from mmcore.cli.options import recipe_options, request_from

if TYPE_CHECKING:
    from mmcore.runs.resume import Changes


@click.command()
@recipe_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder. Default: runs/PLUGIN-STAGE-VARIANT."
)
@click.option("--resume", type=click.Path(path_type=Path, file_okay=False), metavar="RUN", help="Go on with this run.")
@click.option("--init", multiple=True, metavar="RUN|FILE|hf://...|random", help="Where the weights start; repeatable.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=0), help="Data worker processes per training process.")
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="Training processes on this machine."
)
@click.option("--hostfile", type=click.Path(path_type=Path, dir_okay=False), help="Machines, in DeepSpeed's form.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps in all; with --resume, to extend the run.")
@click.option("--epochs", type=float, help="The same as passes over the data.")
@click.option(
    "--max-steps", type=click.IntRange(min=1), help="Stop early; the schedule stays that of the whole recipe."
)
@click.option("--no-tensorboard", is_flag=True, help="Write no TensorBoard events; metrics.jsonl has the numbers.")
@click.option("--quiet", is_flag=True, help="Show no progress; log.txt has it.")
@click.option(
    "--track",
    type=click.Choice(["trackio", "wandb", "swanlab"]),
    help="Tell the figures to this experiment tracker too.",
)
@click.option("--log-every", type=click.IntRange(min=1), help="Optimiser steps between logged lines.")
@click.option("--allow-changed-data", is_flag=True, help="With --resume: go on although the data is not what it was.")
@click.option("--starting", hidden=True, metavar="FILE", help="Of processes that --nproc starts for a new run.")
@click.pass_context
def train(
    ctx: click.Context,
    out: Path | None,
    resume: Path | None,
    nproc: int,
    hostfile: Path | None,
    allow_changed_data: bool,
    starting: str | None,
    device: Literal["auto", "cpu", "cuda"],
    **values: Any,
) -> None:
    """Train a stage of a model family. Everything lands in the run folder; --resume RUN needs nothing else.

    Runs on several processes with --nproc, on several machines with --hostfile, or under torchrun, deepspeed and srun.
    """
    from mmcore.runs.run import resume_run, start_run, started_run
    from mmcore.runs.settings import settle

    length = tuple(f"{name}={given}" for name in ("steps", "epochs") if (given := values.pop(name)) is not None)
    values["sets"] += length
    if starting is not None:
        if resume is None:
            raise click.UsageError("--starting is what --nproc adds to the commands of its processes.")
        started_run(resume, starting)
        return
    if resume is not None:
        changes = _changes(ctx, values["sets"], allow_changed_data)
        resume_run(resume, changes, nproc=nproc, hostfile=hostfile)
        return
    if allow_changed_data:
        raise click.UsageError("--allow-changed-data is for --resume: a new run takes the data as it is.")
    family, settings, _ = settle(
        request_from({**values, "device": device, "tensorboard": not values["no_tensorboard"]})
    )
    start_run(family, settings, out, nproc=nproc, hostfile=hostfile)


def _changes(ctx: click.Context, sets: tuple[str, ...], allow_changed_data: bool) -> "Changes":
    """What was given beside --resume; what a resume would have to ignore is refused."""
    from mmcore.runs.resume import Changes, refuse_other_options

    given = {
        parameter.name: (parameter.opts[0], ctx.params[parameter.name])
        for parameter in ctx.command.params
        if parameter.name and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
    known = {"data", "workers", "device", "log_every", "max_steps", "quiet", "track"}
    ours = known | {"sets", "steps", "epochs", "resume", "nproc", "hostfile", "allow_changed_data", "no_tensorboard"}
    refuse_other_options([option for name, (option, _) in given.items() if name not in ours])
    values = {name: value for name, (_, value) in given.items() if name in known}
    if "no_tensorboard" in given:
        values["tensorboard"] = False
    return Changes(**values, sets=sets, allow_changed_data=allow_changed_data)
