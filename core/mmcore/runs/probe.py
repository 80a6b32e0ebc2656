"""Two steps of a run, for `mmcore plan --probe`: how long one takes and how much memory, measured instead of predicted.

Everything is as in training (weights, data, engine, precision) but that nothing is kept: the folder is a temporary one
and no checkpoint is written. The first step warms up, the second is measured.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.runs.build import build_order, choose_device, total_steps
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets

STEPS = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """One measured step of one process."""

    device: str
    step_s: float
    samples_per_s: float
    peak_bytes: int
    """Of the device; on a CPU of this whole process."""


def probe(family: OpenedPlugin, settings: Settings, datasets: "Datasets") -> Probe:
    """Make two steps and forget them.

    Args:
        family: the plugin.
        settings: of the run.
        datasets: for training, open.

    Raises:
        MmcoreError: whatever would stop the run itself: weights that do not fit, a batch that does not fit in memory.
    """
    from mmcore.base import distributed
    from mmcore.data.loader import Loader
    from mmcore.runs.initialise import starting_model
    from mmcore.train.loop import TrainSetup, accumulation, train
    from mmcore.train.metrics import METRICS_NAME, read
    from mmcore.train.partition import keeping_of

    stage, place = settings.stage, choose_device(settings)
    order = build_order(settings, datasets)
    records = sum(len(datasets.sources[name]) for name in order.names)
    distributed.start(place)
    with tempfile.TemporaryDirectory(prefix="mmcore-probe-") as name:
        folder, keeping = Path(name), keeping_of(stage, place, 1)
        model, _ = starting_model(family, settings, folder, keeping)
        loader = Loader(
            datasets,
            order,
            accumulation=accumulation(stage, 1),
            num_workers=settings.workers,
            policy=stage.data.bad_samples,
            max_in_a_row=stage.data.max_bad_in_a_row,
        )
        setup = TrainSetup(
            stage=stage, model=model, batches=loader, run_dir=folder, steps=total_steps(settings, records),
            stop_step=STEPS, seed=settings.seed, device=place, keeping=keeping, log_every=1, tensorboard=False,
            show=False, keep=False,
        )  # fmt: skip
        try:
            train(setup)
        finally:
            loader.close()
            distributed.stop()
        timing = read(folder / METRICS_NAME)[-1]["timing"]
    return Probe(str(place), timing["step_s"], timing["samples_per_s"], round(timing["memory_gb"] * 1e9))
