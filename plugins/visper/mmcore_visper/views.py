"""What a predictor may see of a hidden state: the prompt up to the image, the image, its own task tokens, the text.

    [ system, user | image | gen | depth | seg | text ... | padding ]     depth sees everything but gen and seg

Published positions are constants that hold for one system prompt and padding on the right (`constant_view`). Here they
are read off the plan of the sequences (`image_view`), which gives the same for published prompts and also serves packed
rows and other prompts. All is done with index arithmetic on the device; nothing is counted there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from mmcore.errors import ShapeError
from mmcore.language.sequence import Sequences
from torch import Tensor

from mmcore_visper.config import VisperConfig

SHORTEST_SLICED = 600
"""The published code slices only sequences of at least so many positions: shorter ones cannot hold an image."""


@dataclass(frozen=True, slots=True)
class View:
    """Positions of some samples, and which of them each task's predictors see."""

    index: Int[Tensor, "samples columns"]
    """Flat position of every column."""
    rows: Int[Tensor, " samples"] | None
    """Row of every sample where `index` is whole rows."""
    real: Bool[Tensor, "samples columns"]
    """False at padding."""
    allowed: dict[str, Bool[Tensor, "samples columns"]]
    """Task -> what its predictors see."""
    own: dict[str, Int[Tensor, "samples tokens"]]
    """Task -> columns of its own tokens."""
    zero_padding: bool

    def tokens(self, hidden: Float[Tensor, "rows length width"]) -> Float[Tensor, "samples columns width"]:
        """The samples' hidden states."""
        # index_select: its backward pass adds rows without sorting indices.
        if self.rows is not None:
            found = hidden.index_select(0, self.rows)
        else:
            flat = hidden.flatten(0, 1).index_select(0, self.index.flatten())
            found = flat.view(*self.index.shape, hidden.shape[-1])
        return found.masked_fill(~self.real[..., None], 0.0) if self.zero_padding else found

    def own_tokens(self, tokens: Float[Tensor, "samples columns width"], task: str) -> Tensor:
        """Of what `tokens` gave, the task's own, (samples, tokens, width)."""
        samples, columns, width = tokens.shape
        flat = self.own[task] + torch.arange(samples, device=tokens.device)[:, None] * columns
        return tokens.flatten(0, 1).index_select(0, flat.flatten()).view(samples, flat.shape[1], width)


def image_view(sequences: Sequences, samples: Int[Tensor, " images"], config: VisperConfig) -> View:
    """The view of each image's sample.

    Raises:
        ShapeError: part of an image was cut off, so that nothing can be predicted from it.
    """
    index, real = _columns(sequences, samples)
    kinds = {"image": config.image_tokens, **dict(config.task_tokens)}
    slots = {kind: _by_image(sequences, kind, count, len(samples)) for kind, count in kinds.items()}
    own = {kind: positions for kind, positions in slots.items() if kind != "image"}
    return _view(sequences, samples, index, real, own, slots["image"][:, -1:] + 1, config)


def constant_view(sequences: Sequences, samples: Int[Tensor, " samples"], config: VisperConfig) -> View:
    """The view with an image in the same columns of every sample, whether there is one or not.

    The published code slices so. The columns are those of `published.prompt_tokens`, else of the batch's first image.

    Raises:
        ShapeError: rows hold several samples, or there is nothing to tell the columns by.
    """
    if sequences.segments is not None:
        raise ShapeError(
            "constant positions need one sample a row",
            where="model.published.outer_product_mask or model.published.prompt_tokens",
            do="turn packing off, or these settings",
        )
    index, real = _columns(sequences, samples)
    length = sequences.shape[1]
    first = config.published.prompt_tokens
    if first is None and not len(sequences.slots["image"]):
        raise ShapeError("no image to tell the columns by", where="model.published.outer_product_mask")
    start = sequences.slots["image"][0] % length if first is None else torch.tensor(first, device=index.device)
    end = start + config.image_tokens
    own, at = {}, 0
    for task, count in config.task_tokens:
        # A short prompt may end before the constants do; the published slices then hold fewer tokens.
        left = count if first is None else max(0, min(count, length - first - config.image_tokens - at))
        own[task] = index[:, :1] + end + at + torch.arange(left, device=index.device)
        at += count
    if first is not None and length < SHORTEST_SLICED:
        own = {}
    return _view(sequences, samples, index, real, own, index[:, :1] + end, config)


def whole_view(sequences: Sequences, samples: Int[Tensor, " samples"], config: VisperConfig) -> View:
    """Everything of each sample, for probes."""
    index, real = _columns(sequences, samples)
    allowed = {task.name: real for task in config.tasks} if config.published.padding_keys == "masked" else {}
    rows = samples if sequences.segments is None else None
    return View(index, rows, real, allowed, {}, config.published.padding_keys == "zero")


def _view(
    sequences: Sequences,
    samples: Tensor,
    index: Tensor,
    real: Tensor,
    own: dict[str, Tensor],
    after_image: Tensor,
    config: VisperConfig,
) -> View:
    allowed = {}
    for task in config.tasks:
        others = [positions.flatten() for other, positions in own.items() if other != task.name]
        mine = own.get(task.name, index[:, :0]).flatten()
        seen = ~_marked(sequences, others)[index]
        if not config.pass_text_to_aux:
            seen = seen & ((index < after_image) | _marked(sequences, [mine])[index])
        allowed[task.name] = seen & real if config.published.padding_keys == "masked" else seen
    rows = samples if sequences.segments is None else None
    columns = {task: positions - index[:, :1] for task, positions in own.items()}
    return View(index, rows, real, allowed, columns, config.published.padding_keys == "zero")


def _marked(sequences: Sequences, positions: list[Tensor]) -> Tensor:
    """(rows * length,) bool: True at these flat positions."""
    marks = torch.zeros(sequences.ids.numel(), dtype=torch.bool, device=sequences.ids.device)
    for part in positions:
        marks.index_fill_(0, part, True)
    return marks


def _columns(sequences: Sequences, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions and validity of each sample's columns: its row, or its part of a packed row."""
    rows, length = sequences.shape
    device = sequences.ids.device
    if sequences.segments is None:
        index = samples[:, None] * length + torch.arange(length, device=device)
        return index, sequences.valid.index_select(0, samples)
    places = np.array(sequences.locations, np.int64).reshape(-1, 3)
    starts = torch.from_numpy(places[:, 0] * length + places[:, 1]).to(device, non_blocking=True)
    lengths = torch.from_numpy(places[:, 2]).to(device, non_blocking=True)
    offsets = torch.arange(int(places[:, 2].max(initial=0)), device=device)
    index = (starts[samples][:, None] + offsets).clamp(max=max(rows * length - 1, 0))
    return index, offsets < lengths[samples][:, None]


def _by_image(sequences: Sequences, kind: str, count: int, images: int) -> Tensor:
    positions = sequences.slots[kind]
    if positions.numel() != count * images:
        raise ShapeError(
            f"{positions.numel()} positions of kind {kind!r} for {images} images of {count} each",
            where="a sample that was cut within its image, or images that have no placeholder",
            do="raise max_length",
        )
    return positions.view(images, count)
