"""What a run is made of but its model: sources, validation sets, order and length, open and held against the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.base.terminal import tell
from mmcore.runs.build import build_datasets, build_order, total_steps
from mmcore.runs.checks import check_metrics, few_steps_a_pass
from mmcore.runs.evaluation import Measuring
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.resume import compare_data, compare_layout, compare_length
from mmcore.runs.settings import Settings, for_training
from mmcore.train.schedule import beyond_the_end
from mmcore.train.stored import steps_of

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets, Order
    from mmcore.contract.recipe import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Open data of a run."""

    stage: "Stage"
    """The recipe; without a `best_metric` that nothing of this run gives."""
    datasets: "Datasets"
    order: "Order"
    measuring: Measuring | None
    """Evaluates the model while it trains; None where nothing validates."""
    steps: int
    """Of the whole run."""
    fresh: bool
    """Whether the folder has no checkpoint."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of every source."""
        return {name: self.datasets.sources[name].fingerprint for name in self.order.names}

    def tell_left_out(self) -> None:
        """A line for each source of which records or objects are left out."""
        from mmcore.data.records import told_left_out

        for name in self.order.names:
            if line := told_left_out(name, self.datasets.sources[name]):
                tell(line)


def open_material(family: OpenedPlugin, settings: Settings, run_dir: Path, *, changed_data: bool) -> Material:
    """Open the data of a run that starts or goes on in this folder; the first process tells what is to be known of it.

    Args:
        family: the plugin.
        settings: of this start.
        run_dir: the run folder, read only.
        changed_data: whether a run may go on with other data.

    Raises:
        DataError: data cannot be used, or is not what the run in the folder began with.
        RecipeError: the recipe asks for what its data does not give.
    """
    from mmcore.base import distributed

    stage, here = settings.stage, distributed.place()
    datasets = build_datasets(family, settings, "train")
    evaluated = for_training(settings)
    validation = build_datasets(family, evaluated, "val") if evaluated.stage.validation else None
    order = build_order(settings, datasets)
    measuring = Measuring(family, settings, validation) if validation else None
    no_best = check_metrics(stage, validation, settings.only, measuring.with_loss if measuring else ())
    if no_best:
        stage = stage.replace(best_metric=None)
    records = sum(len(datasets.sources[name]) for name in order.names)
    made = Material(
        stage=stage,
        datasets=datasets,
        order=order,
        measuring=measuring,
        steps=total_steps(settings, records),
        fresh=not steps_of(run_dir),
    )
    if here.is_first:
        if not made.fresh:
            _compare(settings, run_dir, made.fingerprints, here.world_size, changed_data)
        lengths = (*beyond_the_end(stage, made.steps), *few_steps_a_pass(stage, records))
        changes = () if made.fresh else compare_length(run_dir, stage, made.steps, settings.max_steps)
        for sentence in (*([no_best] if no_best else []), *(lengths if made.fresh else changes)):
            tell(sentence)
    return made


def _compare(settings: Settings, run_dir: Path, fingerprints: Mapping[str, str], processes: int, allowed: bool) -> None:
    """Tell what is not as it was when the run began."""
    for sentence in compare_data(run_dir, fingerprints, allowed=allowed):
        tell(f"going on although {sentence}")
    if told := compare_layout(run_dir, processes, settings.stage):
        tell(told)
