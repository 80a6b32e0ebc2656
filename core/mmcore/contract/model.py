"""What every family's model offers the core: a base class whose optional methods have defaults.

Three methods are a family's own: `forward`, `predict` and `published`. Everything else has an answer here, so the core
asks any model anything without looking whether it is there. What works on any model is done by the core and is no
method: freezing, precision, LoRA adapters (`mmcore.train.lora`) and recomputing activations
(`mmcore.train.recompute`, which asks for `checkpoint_blocks`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmcore.contract.values import Batch, Losses, Prediction, Turn
from mmcore.errors import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np

    from mmcore.contract.protocols import DataContext
    from mmcore.contract.recipe import Stage
    from mmcore.weights.maps import LoadReport, WeightMap


class Model(nn.Module):
    """A family's network. The core builds, fills, freezes and moves it, and calls it through the engine."""

    loss_weights: Mapping[str, float] = MappingProxyType({})
    """Factor of each loss by name, those of the recipe included; a recipe cannot weigh a loss that is not here."""
    max_length: int | None = None
    """Longest text sequence that the model goes by, tokens; None for a family without such a limit."""

    # What a family writes

    def forward(self, batch: Any) -> Losses:
        """Named losses of one training micro-batch; see `mmcore.contract.values.Loss` for the normaliser."""
        raise NotImplementedError

    def predict(self, batch: Any) -> list[Prediction]:
        """Predictions for each image or conversation, in order; called in eval mode without gradients."""
        raise NotImplementedError

    def published(self, format: str = "upstream") -> "WeightMap":
        """The map between published checkpoint names and this model's state dict.

        Raises:
            WeightsError: the family has no such format; names those it has.
        """
        raise NotImplementedError

    # Where weights come from

    def published_parts(self, tensors: Mapping[str, Tensor]) -> "WeightMap":
        """The published map for a run of another stage; a family whose stages differ says here what may stay new.

        Args:
            tensors: of that run, under published names.
        """
        del tensors
        return self.published("upstream")

    def initialise(self, path: Path) -> "LoadReport | None":
        """Fill from a published file that the family recognises; None has the core fill by published names.

        Raises:
            WeightsError: the file is nothing this family can start from.
        """
        del path

    def initialise_part(self, path: Path, part: str) -> "LoadReport | None":
        """As `initialise`, where the recipe says which part of the model the file is to fill (`Init.published`).

        A file may hold more than that part; a family that does not tell parts apart fills what the file holds.
        """
        del part
        return self.initialise(path)

    def attach(self, stage: "Stage", context: "DataContext", folder: Path | None = None) -> None:
        """Told where data and run lie, before anything is loaded: for what is no weight, such as a tokenizer.

        Args:
            stage: of the run.
            context: where its data lie.
            folder: of the run, or of the export that was opened; None for neither.
        """

    # Prediction

    def prepare(
        self, images: "Sequence[np.ndarray]", *, names: Sequence[str] | None = None, prompt: str | None = None
    ) -> Batch:
        """The batch that `predict` takes, made of loose images with the family's own test transform.

        Args:
            images: (height, width, 3) uint8 RGB each.
            names: what to look for; None is the family's own vocabulary.
            prompt: an expression or a question, instead of names.

        A family that can be shown what to look for takes `example` as well: a (height, width, 3) uint8 RGB picture of
        it, instead of names. One that can be pointed at something takes `visual`, a `VisualPrompt` in pixels of each
        image with its region filled in. Others leave these arguments out and are never given one.

        Raises:
            UsageError: this family cannot, or not with these arguments.
        """
        raise UsageError(
            f"{type(self).__name__} cannot predict on loose images",
            where="mmcore predict",
            do="use `mmcore eval`, or ask the family's author to write `prepare(images, names=, prompt=)`",
        )

    def prepare_video(
        self, frames: "Sequence[np.ndarray]", *, names: Sequence[str] | None = None, prompt: str | None = None
    ) -> Batch:
        """The frames of one video as the batch that `predict` takes; its answers are one prediction a frame.

        Args:
            frames: (height, width, 3) uint8 RGB each, of one size, in order.
            names: what to follow; None is the family's own vocabulary.
            prompt: an expression for one thing, instead of names.

        Raises:
            UsageError: this family follows nothing through videos.
        """
        raise UsageError(
            f"{type(self).__name__} follows nothing through videos",
            where="mmcore predict",
            do="give pictures; without --video a folder's pictures are answered one by one",
        )

    def converse(self, image: "np.ndarray | None", turns: Sequence[Turn]) -> Batch:
        """The batch that `predict` takes, made of a conversation whose last question is still open.

        A family that writes this can be talked to (`mmcore chat`); the others answer one question at a time.

        Args:
            image: (height, width, 3) uint8 RGB, what is spoken of; None for a conversation in words alone.
            turns: what was said, the user first, speakers in turn, the question last; without image markers.

        A family that can be shown what is spoken of takes `example` as well, as in `prepare`.

        Raises:
            UsageError: this family holds no conversation, or not this one.
        """
        del image, turns
        raise UsageError(
            f"{type(self).__name__} holds no conversation",
            where="mmcore chat",
            do="ask one question at a time with `mmcore predict`",
        )

    # Files

    def keep_files(self, folder: Path) -> None:
        """Copy what prediction needs besides weights into a run's folder, such as a tokenizer."""

    def export_hf(self, folder: Path, state: Mapping[str, Tensor], max_shard_bytes: int) -> str | None:
        """Write a folder that plain transformers opens.

        Args:
            folder: empty.
            state: our names and values, adapters folded in.
            max_shard_bytes: largest size of one file.

        Returns:
            What the card says on its use; None, with nothing written, when transformers has no such architecture.
        """
        del folder, state, max_shard_bytes

    def export_tensors(self, tensors: Mapping[str, Tensor], format: str, precision: str | None) -> Mapping[str, Tensor]:
        """What published files of a format hold of a whole model: all of it, unless a family says otherwise.

        Args:
            tensors: published names and values, adapters folded in.
            format: one of `published`.
            precision: that was asked for; None leaves it to the family.
        """
        del format, precision
        return tensors

    def plain_config(self) -> Mapping[str, Any] | None:
        """`config.json` of a plain transformers model that reads its part of this model's published names.

        An export for transformers then holds published names: transformers opens that part, such as the language model,
        and mmcore the whole. None where there is no such part.
        """

    def export_files(self, folder: Path, format: str) -> None:
        """Write what stands beside exported weights: the original configuration and tokenizer.

        Args:
            folder: of the export.
            format: "upstream" or another of `published`; "hf" for mmcore's own folder, whose config.json the core
                writes.
        """

    # Training

    def idle_parameters(self, stage: "Stage") -> Sequence[str]:
        """Patterns of parameters that no loss of this stage reaches: published files have them, or other data use them.

        `mmcore plugins check` expects a gradient at every other trained parameter.
        """
        del stage
        return ()

    def checkpoint_blocks(self) -> Sequence[nn.Module]:
        """The repeated blocks whose activations `gradient_checkpointing` recomputes; their inputs are kept instead.

        A block returns the same for the same arguments, random numbers included, and changes nothing besides.
        """
        return ()

    def lora_modules(self) -> Sequence[nn.Module]:
        """Where the short LoRA targets look for layers: a leaf name such as `q_proj`, and `all-linear`.

        A language-model family answers with its language model without the output layer, so that a vision tower with
        layers of the same names stays as it is. Whole names and wildcards reach every layer in any case.
        """
        return (self,)

    def zero3_leaves(self) -> Sequence[nn.Module]:
        """Modules whose parameters ZeRO-3 gathers as one unit.

        A family whose forward takes another path from one batch to the next (one rank with masks, one without) returns
        the modules inside which paths differ, so that all ranks gather the same parameters in the same order.
        """
        return ()


REQUIRED = ("forward", "predict", "published")
OPTIONAL = tuple(name for name, value in vars(Model).items() if inspect.isfunction(value) and name not in REQUIRED)
"""The optional methods of the contract, in the order of this file."""


def overrides(model: Model, method: Callable[..., Any]) -> bool:
    """Whether a model brings its own version of a method of `Model`: `overrides(model, Model.prepare)`."""
    return inspect.getattr_static(type(model), method.__name__) is not method


def missing_methods(model: Model) -> list[str]:
    """The methods that a family must write and this one did not."""
    return [name for name in REQUIRED if not overrides(model, inspect.getattr_static(Model, name))]


def misspelt_methods(model: Model) -> dict[str, str]:
    """Public methods that look like one of the contract and are none, with the name they are near to.

    Such a method would never be called, and the default would answer in its place.
    """
    own = type(model).__mro__[: type(model).__mro__.index(Model)]
    names = [
        name
        for kind in own
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]
    known = (*REQUIRED, *OPTIONAL)
    unknown = {name for name in names if name not in known and name not in vars(nn.Module)}
    return {name: found for name in sorted(unknown) if (found := nearest(name, known, 0.8))}
