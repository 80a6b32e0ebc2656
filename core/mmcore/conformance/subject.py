"""What the checks look at: one stage of a plugin's smallest variant on its sample data, and the words for a finding."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError
from mmcore.runs.build import attach, build_datasets, build_model, prepare_demo
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings, active_sources

if TYPE_CHECKING:
    from mmcore.contract.model import Model
    from mmcore.contract.protocols import Datasets
    from mmcore.contract.values import Batch


class BrokenContractError(Exception):
    """A check found that the plugin breaks the contract."""


@dataclass
class Subject:
    """A plugin under test with what several checks need, each made once."""

    name: str
    data: Path
    family: OpenedPlugin
    variant: str
    stage: Stage

    @cached_property
    def settings(self) -> Settings:
        """The stage as --demo would run it, in full precision."""
        settings = Settings(
            plugin=self.name,
            variant=self.variant,
            stage=self.stage.replace(precision="fp32", compile=False),
            data=str(self.data),
            demo=True,
            device="cpu",
            workers=0,
        )
        prepare_demo(self.family, settings)
        return settings

    @cached_property
    def model(self) -> "Model":
        return self.build()

    def build(self) -> "Model":
        """A fresh model that knows where its data lie."""
        model = build_model(self.family, self.settings)
        attach(model, self.settings)
        return model

    @cached_property
    def train(self) -> "Datasets":
        return build_datasets(self.family, self.settings, "train")

    @cached_property
    def val(self) -> "Datasets":
        return build_datasets(self.family, self.settings, "val")

    @cached_property
    def batches(self) -> "dict[str, Batch]":
        """One micro-batch of every training source."""
        return self.draw(0)

    def draw(self, turn: int) -> "dict[str, Batch]":
        """One micro-batch of every training source; `turn` decides what is drawn and collated."""
        size = {name: s.micro_batch or self.stage.micro_batch for name, s in active_sources(self.settings).items()}
        return {name: draw_batch(self.train, name, min(4, count), turn) for name, count in size.items()}


def require(condition: bool, message: str) -> None:
    """Raise `BrokenContractError` with this message unless the condition holds."""
    if not condition:
        raise BrokenContractError(message)


def must_refuse(what: str, action: Callable[[], object]) -> None:
    """Raise `BrokenContractError` unless the action raises `RecipeError`."""
    try:
        action()
    except RecipeError:
        return
    except Exception as error:
        raise BrokenContractError(f"{what} raises {type(error).__name__} instead of RecipeError: {error}") from error
    raise BrokenContractError(f"{what} is accepted in silence; it must be a RecipeError with the nearest name")


def draw_batch(datasets: "Datasets", name: str, count: int, turn: int = 0) -> "Batch":
    """The `turn`-th `count` usable samples of a source, going round when it is short, collated."""
    from mmcore.contract.values import Draw

    source = datasets.sources[name]
    samples: list[Any] = []
    for number in range(turn * count, turn * count + len(source)):
        sample = source.sample(Draw(name, number % len(source), 1_000 + number))
        samples += [sample] if sample is not None else []
        if len(samples) == count:
            break
    require(len(samples) == count, f"source {name} gives only {len(samples)} usable samples")
    return datasets.collate[name](samples, 7 + turn)
