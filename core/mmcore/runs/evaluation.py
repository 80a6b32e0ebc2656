"""A run's validation sets, measured: metrics by their protocol, the loss beside them, and pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base.terminal import tell
from mmcore.runs.build import choose_device
from mmcore.runs.pictures import FOLDER, Strip, draw_curves_of
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings
from mmcore.runs.validation_loss import learnable_sets, validation_loss

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.data.bad import Incident

TakeBad = Callable[[Sequence["Incident"]], None]


class Measuring:
    """Measures validation sets of one run, whenever it is asked.

    Args:
        family: the plugin.
        settings: of the run.
        validation: its sets, open.
        losses: whether the loss is measured, where a set can be learned from.
    """

    def __init__(
        self, family: OpenedPlugin, settings: Settings, validation: "Datasets", *, losses: bool = True
    ) -> None:
        self.settings, self.validation = settings, validation
        self._learnable = learnable_sets(family, settings, list(validation.evaluators)) if losses else {}
        self._told: set[str] = set()

    @property
    def with_loss(self) -> frozenset[str]:
        """The sets of which the loss is measured."""
        return frozenset(self._learnable)

    def measure(
        self, model: "nn.Module", source: str, *, folder: Path | None = None, picture: Path | None = None,
        title: str = "", take_bad: TakeBad | None = None, **how: Any,
    ) -> dict[str, float]:  # fmt: skip
        """Metrics of one set; empty on all processes but the first.

        Args:
            model: whole weights, on its device.
            source: the set.
            folder: gets predictions, metrics and the pictures of detectors.
            picture: the file of its strip; None draws none.
            title: of the strip.
            take_bad: is given the records that were left out.
            how: other arguments of `mmcore.evaluate.run.evaluate`.
        """
        from mmcore.base import distributed
        from mmcore.evaluate.run import evaluate

        here = distributed.place()
        total = min(len(self.validation.sources[source]), how.get("limit") or 1 << 62)
        chosen: dict[str, Any] = {"device": choose_device(self.settings), **how}
        watch = Strip(total) if picture is not None else None
        metrics = evaluate(
            model, self.validation, self.settings.stage, source, distributed=here, folder=folder, take_bad=take_bad,
            watch=watch, more=self._loss(model, source), **chosen,
        )  # fmt: skip
        if watch is not None and picture is not None:
            watch.save(picture, title or source, here)
        if folder is not None and here.is_first:
            draw_curves_of(folder)
        return metrics

    def _loss(self, model: "nn.Module", source: str) -> dict[str, float]:
        from mmcore.base import distributed

        if source not in self._learnable:
            return {}
        here, device = distributed.place(), choose_device(self.settings)
        opened = self._learnable[source]
        loss, why = validation_loss(model, opened, self.settings.stage, source, device, here)
        if why is not None and source not in self._told:
            self._told.add(source)
            if here.is_first:
                tell(f"no loss of {source} is measured: {why}")
        return {} if loss is None else {"loss": loss}


def evaluation_of(measuring: Measuring, run_dir: Path, take_bad: TakeBad) -> Any:
    """The loop's evaluation: every validation set, metrics under `SET/NAME`, predictions kept for the newest only.

    Records that cannot be read follow the policy of the training data, and are listed beside its bad samples.
    """
    from mmcore.train.objective import DTYPES
    from mmcore.train.stored import name_of

    validation, stage = measuring.validation, measuring.settings.stage
    if not validation.evaluators:
        return None

    def run(model: "nn.Module", step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for source in validation.evaluators:
            found = measuring.measure(
                model, source,
                folder=run_dir / "evals" / source,
                picture=run_dir / FOLDER / source / f"{name_of(step)}.jpg",
                title=f"{source}, step {step:,}: predicted and true",
                take_bad=take_bad,
                autocast=DTYPES[stage.precision],
                policy=stage.data.bad_samples,
            )  # fmt: skip
            metrics |= {f"{source}/{name}": value for name, value in found.items()}
        return metrics

    return run


def measure_start(measuring: Measuring, model: "Model", run_dir: Path) -> None:
    """The validation sets that the recipe wants measured before the first step."""
    from mmcore.runs.before import measure_before
    from mmcore.train.objective import DTYPES
    from mmcore.train.partition import whole

    settings = measuring.settings
    how: dict[str, Any] = {"autocast": DTYPES[settings.stage.precision], "policy": settings.stage.data.bad_samples}

    def before(held: "nn.Module", source: str) -> dict[str, float]:
        picture = run_dir / FOLDER / source / "step-00000000.jpg"
        return measuring.measure(held, source, picture=picture, title=f"{source}, at the start", **how)

    with whole(model):
        measure_before(
            model.to(choose_device(settings)), settings.stage, measuring.validation.evaluators, before, run_dir
        )
