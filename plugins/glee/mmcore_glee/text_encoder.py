"""Words to vectors: CLIP's text model, pooled class embeddings, and the tokens that pixels look at.

Class names are padded to the longest of the batch, not to 77: CLIP is causal, so what follows a token changes nothing.
Referring expressions keep all 77 positions, because the published fusion lets padding take part. While an encoder is
frozen it sees each phrase once; its features are kept.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import GleeConfig

if TYPE_CHECKING:
    from transformers import CLIPTextModel

BEGIN, END = 49406, 49407
"""CLIP's tokens around every text; all tokens before them are pieces of words."""


@dataclass(slots=True)
class TextFeatures:
    """What the rest of the model takes from the text."""

    classes: Float[Tensor, "texts dim"]
    """Mean of each text's projected tokens, begin and end included."""
    fusion: Float[Tensor, "batch tokens dim"]
    """Tokens that the pixels look at: all words of all names, or all 77 positions of each image's expression."""
    prompts: Float[Tensor, "batch tokens dim"] | None
    """Expression tokens that join the queries in the decoder; None for class names."""
    prompts_valid: Bool[Tensor, "batch tokens"] | None
    distance: Float[Tensor, ""] | None
    """Squared distance to the teacher: mean over channels, sum over the tokens of all names; None without teacher."""


def build_clip(config: GleeConfig) -> "CLIPTextModel":
    """CLIP's text model of ViT-B/32, or a smaller one, with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.text_vocabulary,
            max_position_embeddings=config.text_positions,
            hidden_size=config.text_dim,
            intermediate_size=config.text_ffn,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            projection_dim=config.text_dim,
            hidden_act=config.text_activation,
            bos_token_id=BEGIN,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


class PhraseMemo:
    """Features of phrases that a frozen encoder has seen, in one table; the least recently used are dropped.

    Args:
        capacity: most phrases kept; at CLIP's size one takes about 2 kB a token.
    """

    def __init__(self, capacity: int = 8192) -> None:
        self.capacity = capacity
        self._places: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Phrase -> first row in the table and number of rows, least recently used first."""
        self._table: Tensor | None = None
        """Tokens of all phrases, (rows, channels); row 0 is zero and stands for padding."""
        self._used = 1
        self._version: tuple[object, ...] = ()

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()
        self._table, self._used = None, 1

    def encode(
        self, clip: nn.Module, names: Sequence[str], input_ids: Int[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts tokens channels"]:
        """Hidden states of all names; only those not seen before go through the encoder.

        What stands at padding depends on what was seen before, and nobody may read it.
        """
        self._forget_when_changed(clip, input_ids)
        missing = {name: i for i, name in enumerate(names) if name not in self._places}
        if missing:
            rows = torch.tensor(list(missing.values()), device=input_ids.device)
            # Not in inference mode: what is kept here may be needed by a training step later.
            with torch.inference_mode(False), torch.no_grad():
                self._keep(list(missing), hidden_states(clip, input_ids[rows].clone()))
        result = self._look_up(names, input_ids.shape[1])
        for name in names:
            self._places.move_to_end(name)
        if len(self._places) > self.capacity:
            self._drop_oldest()
        return result

    def _look_up(self, names: Sequence[str], width: int) -> Tensor:
        """Rows of the table. A phrase fits in both the width it was kept at and `width`; the rest is padding."""
        assert self._table is not None
        first, length = np.array([self._places[name] for name in names]).T[:, :, None]
        steps = np.arange(width)
        index = torch.from_numpy(np.where(steps < length, first + steps, 0))
        return embedding(index.to(self._table.device, non_blocking=True), self._table)

    def _keep(self, names: Sequence[str], hidden: Float[Tensor, "texts tokens channels"]) -> None:
        """Write phrases behind those that are there, in a table that grows by doubling."""
        texts, width, channels = hidden.shape
        end = self._used + texts * width
        if self._table is None or end > len(self._table):
            table = hidden.new_zeros(max(end, 2 * self._used), channels)
            if self._table is not None:
                table[: self._used] = self._table[: self._used]
            self._table = table
        self._table[self._used : end] = hidden.flatten(0, 1)
        self._places.update((name, (self._used + i * width, width)) for i, name in enumerate(names))
        self._used = end

    @torch.inference_mode(False)
    @torch.no_grad()
    def _drop_oldest(self) -> None:
        """Keep the half used last, moved together, so that this is rare."""
        assert self._table is not None
        kept = list(self._places.items())[-max(1, self.capacity // 2) :]
        rows = np.concatenate([[0], *(np.arange(first, first + length) for _, (first, length) in kept)])
        self._table = self._table[torch.from_numpy(rows).to(self._table.device)]
        starts = np.cumsum([1, *(length for _, (_, length) in kept)])
        self._places = OrderedDict(
            (name, (int(start), length)) for start, (name, (_, length)) in zip(starts[:-1], kept, strict=True)
        )
        self._used = int(starts[-1])

    def _forget_when_changed(self, clip: nn.Module, input_ids: Tensor) -> None:
        weights = tuple(clip.parameters())
        # Every tensor counts, for a file or an optimiser may change some of them only. The version counter grows with
        # every in-place write, such as loading weights; writes through `.data` it does not see (`encode_text`).
        places = tuple((weight.data_ptr(), weight._version) for weight in weights)
        version = (places, weights[0].dtype, torch.is_autocast_enabled(input_ids.device.type))
        if version != self._version:
            self.clear()
            self._version = version


def forget_phrases(model: nn.Module, keys: object) -> None:
    """A hook after weights were loaded: assigned ones may lie where former ones lay, as if nothing had changed."""
    del keys
    for value in vars(model).values():
        if isinstance(value, PhraseMemo):
            value.clear()


def hidden_states(
    clip: nn.Module, input_ids: Int[Tensor, "texts tokens"], attention_mask: Int[Tensor, "texts tokens"] | None = None
) -> Float[Tensor, "texts tokens channels"]:
    """CLIP's last hidden state after the final norm.

    Args:
        clip: a CLIPTextModel.
        input_ids: padded on the right.
        attention_mask: needed only when padding positions are used afterwards; without it what stands there is
            whatever comes, for on a CPU texts of one length go through together, without padding.
    """
    # By the weights' device: a plan follows a GPU's step on meta, with ids that are real.
    if attention_mask is None and next(clip.parameters()).device.type == "cpu":
        groups = _of_equal_length(input_ids)
        if groups is not None:
            return _by_length(clip, input_ids, groups)
    return clip(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


WORTH_IT = 0.9
"""Share of the tokens, padding included, below which texts are encoded by their length."""


def _of_equal_length(input_ids: Int[Tensor, "texts tokens"]) -> list[tuple[int, Tensor]] | None:
    """Lengths and the rows that have them; None where hardly anything is padding."""
    texts, width = input_ids.shape
    ends = input_ids == END
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, width)
    if not texts or int(lengths.sum()) > WORTH_IT * texts * width:
        return None
    return [(int(length), (lengths == length).nonzero()[:, 0]) for length in lengths.unique()]


def _by_length(clip: nn.Module, input_ids: Int[Tensor, "texts tokens"], groups: list[tuple[int, Tensor]]) -> Tensor:
    """Hidden states, zero behind each text's end."""
    width = input_ids.shape[1]
    parts = [pad(hidden_states(clip, input_ids[rows, :length]), (0, 0, 0, width - length)) for length, rows in groups]
    return torch.cat(parts)[torch.cat([rows for _, rows in groups]).argsort()]


def pool(x: Float[Tensor, "texts tokens dim"], mask: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts dim"]:
    """Mean over the tokens that are no padding."""
    weights = mask.to(x.dtype)
    return torch.einsum("ntc,nt->nc", x, weights) / weights.sum(1, keepdim=True)


def valid_tokens(
    x: Float[Tensor, "texts tokens dim"], mask: Int[Tensor, "texts tokens"], count: int | None
) -> Float[Tensor, "valid dim"]:
    """The tokens that are no padding, in order.

    Args:
        x: features.
        mask: 1 for tokens.
        count: their number if known, so that nothing waits for the device.
    """
    flat = mask.flatten()
    if count is None or not flat.is_cuda:
        return x.flatten(0, 1)[flat.bool()]
    return x.flatten(0, 1)[torch.argsort(flat, descending=True, stable=True)[:count]]


def is_frozen(clip: nn.Module) -> bool:
    """Whether nothing of the encoder is trained."""
    return not any(parameter.requires_grad for parameter in clip.parameters())


def encode_text(
    clip: nn.Module,
    teacher: nn.Module | None,
    projection: Float[Tensor, "channels dim"],
    batch: GleeBatch,
    memo: PhraseMemo,
    teacher_memo: PhraseMemo,
) -> TextFeatures:
    """Text features of a batch's names or expressions.

    Args:
        clip: the text encoder.
        teacher: the frozen copy it is drawn towards, or None to leave the distance out.
        projection: from CLIP's channels to the model's.
        batch: ids, masks, names or expressions.
        memo: what `clip` has seen while frozen.
        teacher_memo: what `teacher` has seen.
    """
    if torch.is_grad_enabled() and not is_frozen(clip):
        memo.clear()  # a step follows, and sharded engines write weights where no version counter grows
    if batch.expressions is not None:
        return _encode_expressions(clip, projection, batch)
    ids, mask = batch.input_ids, batch.attention_mask
    if is_frozen(clip) or not torch.is_grad_enabled():
        with torch.no_grad():
            hidden = memo.encode(clip, batch.names, ids)
    else:
        hidden = hidden_states(clip, ids)
    distance = None
    if teacher is not None:
        with torch.no_grad():
            target = teacher_memo.encode(teacher, batch.names, ids)
        distance = ((hidden - target).square().mean(-1) * mask).sum()
    x = hidden @ projection
    count = int(batch.normalisers["text_tokens"]) if "text_tokens" in batch.normalisers else None
    tokens = valid_tokens(x, mask, count)
    return TextFeatures(pool(x, mask), tokens.expand(len(batch.images), -1, -1), None, None, distance)


def _encode_expressions(clip: nn.Module, projection: Tensor, batch: GleeBatch) -> TextFeatures:
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(clip)):
        hidden = hidden_states(clip, batch.input_ids, batch.attention_mask)
    x = hidden @ projection
    return TextFeatures(pool(x, batch.attention_mask), x, x, batch.attention_mask.bool(), None)
