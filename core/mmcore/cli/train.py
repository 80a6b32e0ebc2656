"""`mmcore train`: a new run, or one that goes on."""

from pathlib import Path
from typing import Any, Literal

import click

from mmcore.cli.options import recipe_options, request_from


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
def train(
    out: Path | None,
    resume: Path | None,
    nproc: int,
    hostfile: Path | None,
    device: Literal["auto", "cpu", "cuda"],
    **values: Any,
) -> None:
    """Train a stage of a model family. Everything lands in the run folder; --resume RUN needs nothing else.

    Runs on several processes with --nproc, on several machines with --hostfile, or under torchrun, deepspeed and srun.
    """
    from mmcore.runs.run import resume_run, start_run
    from mmcore.runs.settings import settle

    if resume is not None:
        _refuse_with_resume(values)
        resume_run(resume, nproc=nproc, hostfile=hostfile, max_steps=values["max_steps"])
        return
    family, settings, _ = settle(
        request_from({**values, "device": device, "tensorboard": not values["no_tensorboard"]})
    )
    start_run(family, settings, out, nproc=nproc, hostfile=hostfile)


def _refuse_with_resume(values: dict[str, Any]) -> None:
    """--resume takes everything from the run folder: any other choice would silently not be made."""
    given = [name for name, value in values.items() if value and name != "max_steps"]
    if given:
        spelled = {"sets": "set", "extensions": "with", "log_every": "log-every", "no_tensorboard": "no-tensorboard"}
        listed = ", ".join(f"--{spelled.get(name, name)}" for name in given)
        raise click.UsageError(f"--resume takes everything from the run folder; leave out {listed}.")
