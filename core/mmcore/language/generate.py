"""Continue spliced prompts word by word, a batch at a time, with a key-value cache.

The prompt rows are read once, whichever side they are padded on; every further step feeds one token per row. A row
ends at one of the end ids, after one of the stop sequences, or when its text holds a stop string; rows that have ended
take padding until all have. Tokens, keys and values are written into room that is made once, and stay on the device:
the host asks once a step whether all rows have ended, and reads tokens only where a stop string has to be found.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from mmcore.errors import ShapeError, UsageError
from mmcore.language.conversation import Template
from mmcore.language.masking import Kernel, Masking, masking_of
from mmcore.language.models import LanguageModel
from mmcore.language.sequence import Sequences

END_TOKENS = ("<|end_of_text|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<|assistant|>")
"""Tokens that end an answer in published generation settings: 128001 and 128009 of Llama 3; 32000, 32001 and 32007 of
Phi-3."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; greedy without one of these."""

    temperature: float = 1.0
    """Logits are divided by it; above 0."""
    top_p: float = 1.0
    """Only the likeliest words that together have this probability are drawn."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"cannot sample with temperature {self.temperature} and top_p {self.top_p}",
                known="temperature above 0, top_p in (0, 1]",
                do="leave sampling out for the likeliest words",
            )


@dataclass(frozen=True, slots=True)
class Stop:
    """When a row ends, besides its number of tokens."""

    ids: tuple[int, ...] = ()
    """End-of-text ids; the one that came is part of the answer's ids."""
    sequences: tuple[tuple[int, ...], ...] = ()
    """Ids that end a row when it ends with them ("<end_of_turn>", newline)."""
    strings: tuple[str, ...] = ()
    """Texts that end a row when its decoded end holds them."""
    decode: Callable[[list[int]], str] | None = None
    """Ids to text, for `strings`."""

    def __post_init__(self) -> None:
        if self.strings and self.decode is None:
            raise UsageError("stop strings need a way to decode", do="give Stop(strings=..., decode=tokenizer.decode)")

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether a row with these new ids has ended with the last of them."""
        taken = torch.tensor([list(ids)], dtype=torch.int64)
        return bool(ids) and bool(_Ends(self, taken.device)(taken, torch.ones(1, dtype=torch.bool))[0])


def end_ids(language: Mapping[str, Any], template: Template, tokenizer: Any) -> list[int]:
    """Every id that ends an answer: the language model's, the tokenizer's and the template's.

    Args:
        language: configuration of the language model.
        template: how conversations are written.
        tokenizer: knows some of `END_TOKENS`.
    """
    vocabulary = tokenizer.get_vocab()
    names = [name for name in (*END_TOKENS, template.stop.strip()) if name in vocabulary]
    own = language.get("eos_token_id") or ()
    ids = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else (own,))}
    return sorted({int(i) for i in ids if i is not None} | {int(vocabulary[name]) for name in names})


@dataclass(frozen=True, slots=True)
class Generated:
    """What came after each prompt."""

    ids: list[list[int]]
    """New ids of each row, with the end id or sequence that ended it."""
    probabilities: list[list[float]]
    """Probability of each of them, under the softmax of the model's logits."""
    logits: Float[Tensor, "rows steps words"] | None = None
    """Of every step, float32; rows that ended go on with padding."""
    hidden: list[Float[Tensor, "_ width"]] | None = None
    """Last hidden states of each row: its prompt, and every new token but the last, which is not fed back."""


@torch.no_grad()
def generate(
    model: LanguageModel,
    embeds: Float[Tensor, "rows length width"],
    sequences: Sequences,
    *,
    max_new_tokens: int,
    stop: Stop | None = None,
    sampling: Sampling | None = None,
    forbid: Iterable[int] = (),
    padding: int = 0,
    keep_logits: bool = False,
    keep_hidden: bool = False,
    hear: Callable[[Sequence[int]], None] | None = None,
) -> Generated:
    """Continue every row.

    Args:
        model: in eval mode.
        embeds: of the prompts, from `model.embed`.
        sequences: their plan, one sample per row.
        max_new_tokens: most tokens of an answer.
        stop: when a row ends earlier.
        sampling: draw the tokens; None takes the likeliest.
        forbid: ids that are never taken (rows of the vocabulary that are no word).
        padding: id fed for rows that have ended.
        keep_logits: return the logits of every step.
        keep_hidden: return the last hidden states.
        hear: told each new id of the first row as it comes; the host waits for the device at every step then.

    Raises:
        ShapeError: several prompts share a row.
        UsageError: the model is in training mode, or no token is asked for.
    """
    if model.model.training:
        raise UsageError("generation needs the model in eval mode", do="call model.eval() first")
    if max_new_tokens < 1:
        raise UsageError(f"cannot generate {max_new_tokens} tokens", do="ask for at least one")
    if sequences.segments is not None:
        raise ShapeError("prompts are packed into shared rows", do="lay them out without pack_to")
    rows, device = len(embeds), embeds.device
    reader = _Reader(model, sequences, room=max_new_tokens)
    ends, pick = _Ends(stop or Stop(), device), _Pick(sampling, tuple(forbid), device)
    ids = torch.full((rows, max_new_tokens), padding, device=device)
    probabilities = torch.zeros(rows, max_new_tokens, device=device)
    lengths = torch.zeros(rows, dtype=torch.int64, device=device)
    going = torch.ones(rows, dtype=torch.bool, device=device)
    states, kept = [reader.prompt(embeds)], []
    last = states[0].gather(1, reader.ends[:, None, None].expand(-1, 1, states[0].shape[-1]))
    for step in range(max_new_tokens):
        logits = model.lm_head(last)[:, 0].float()
        if keep_logits:
            kept.append(logits)
        ids[:, step], probabilities[:, step] = pick(logits)
        if hear is not None and bool(going[0]):
            hear(ids[0, step : step + 1].tolist())
        lengths += going
        going = going & ~ends(ids[:, : step + 1], going)
        if step + 1 == max_new_tokens or (ends.can_end and not bool(going.any())):
            break
        last = reader.step(ids[:, step].masked_fill(~going, padding))
        if keep_hidden:
            states.append(last)
    counts = lengths.tolist()
    return Generated(
        ids=[row[:count] for row, count in zip(ids.tolist(), counts, strict=True)],
        probabilities=[row[:count] for row, count in zip(probabilities.tolist(), counts, strict=True)],
        logits=torch.stack(kept, 1) if keep_logits else None,
        hidden=_by_row(states, sequences, counts) if keep_hidden else None,
    )


class _Ends:
    """Which rows have ended, on the device of their tokens."""

    def __init__(self, stop: Stop, device: torch.device) -> None:
        self.stop = stop
        self.ids = torch.tensor(stop.ids, dtype=torch.int64, device=device)
        self.sequences = [torch.tensor(end, device=device) for end in stop.sequences if end]
        # A token is at least one byte of text, so as many tokens as bytes reach back far enough.
        self.window = max((len(text.encode()) for text in stop.strings), default=0) + 1
        self.can_end = bool(stop.ids or self.sequences or stop.strings)

    def __call__(self, taken: Int[Tensor, "rows tokens"], going: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Whether each row ends with the last token taken; of rows that ended before, anything."""
        ended = (taken[:, -1:] == self.ids).any(1)
        for end in self.sequences:
            if len(end) <= taken.shape[1]:
                ended |= (taken[:, -len(end) :] == end).all(1)
        if self.stop.strings:
            ended |= self._texts(taken, going)
        return ended

    def _texts(self, taken: Tensor, going: Tensor) -> Tensor:
        assert self.stop.decode is not None
        found = torch.zeros(len(taken), dtype=torch.bool)
        for row, tokens in zip(going.nonzero()[:, 0].tolist(), taken[going, -self.window :].tolist(), strict=True):
            text = self.stop.decode(tokens)
            found[row] = any(end in text for end in self.stop.strings)
        return found.to(taken.device)


class _Room(DynamicLayer):
    """Keys and values of one layer, in tensors with room for those to come: nothing is copied when a token arrives."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys, self.all_values = (
            part.new_empty(*part.shape[:2], part.shape[2] + self.extra, part.shape[3])
            for part in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.all_keys[:, :, start : self.length] = key_states
        self.all_values[:, :, start : self.length] = value_states
        self.keys, self.values = self.all_keys[:, :, : self.length], self.all_values[:, :, : self.length]
        return self.keys, self.values


class _Reader:
    """The model with its cache: reads the prompts, then one token per row and step."""

    def __init__(self, model: LanguageModel, sequences: Sequences, room: int) -> None:
        self.model = model
        self.sequences = sequences
        # Layers that know no window keep every key; windows are in the masking.
        self.cache = Cache(layer_class_to_replicate=partial(_Room, room))  # type: ignore[arg-type]
        device = sequences.ids.device
        starts, lengths = torch.tensor([(place.start, place.length) for place in sequences.locations]).to(device).T
        self.ends = starts + lengths - 1
        self.kernel: Kernel = "eager" if model.attention == "eager" else "sdpa"  # "varlen" knows no cache
        self.taken = 0
        """Tokens fed after the prompts."""
        self.answer_positions = lengths[:, None] + torch.arange(room, device=device)
        self.key_positions = torch.cat([sequences.positions, self.answer_positions], 1)
        """Of prompts and answers; those to come are not looked at."""
        answer_valid = sequences.valid.new_ones(()).expand(len(lengths), room)
        self.valid = torch.cat([sequences.valid, answer_valid], 1) if sequences.padding else None

    def prompt(self, embeds: Tensor) -> Tensor:
        """Hidden states of the prompts."""
        masking = masking_of(self.sequences, kernel=self.kernel)
        return self.model.run(embeds, self.sequences.positions, masking, self.cache)

    def step(self, token: Int[Tensor, " rows"]) -> Float[Tensor, "rows 1 width"]:
        """Hidden state after one more token per row, which sees the row's prompt and what followed it."""
        position = self.answer_positions[:, self.taken : self.taken + 1]
        self.taken += 1
        keys = self.sequences.shape[1] + self.taken
        valid = None if self.valid is None else self.valid[:, :keys]
        masking = Masking(position, self.key_positions[:, :keys], valid=valid, longest=keys, kernel=self.kernel)
        return self.model.run(self.model.embed_tokens(token[:, None]), position, masking, self.cache)


class _Pick:
    """The next token of every row, and its probability."""

    def __init__(self, sampling: Sampling | None, forbid: tuple[int, ...], device: torch.device) -> None:
        self.sampling = sampling
        self.forbid = torch.tensor(forbid, device=device, dtype=torch.int64) if forbid else None
        self.generator = torch.Generator(device).manual_seed(sampling.seed) if sampling else None

    def __call__(self, logits: Float[Tensor, "rows words"]) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        probabilities = logits.softmax(-1)
        if self.forbid is not None:
            logits = logits.index_fill(-1, self.forbid, -torch.inf)
        token = logits.argmax(-1) if self.sampling is None else self._draw(logits, self.sampling)
        return token, probabilities.gather(-1, token[:, None])[:, 0]

    def _draw(self, logits: Tensor, sampling: Sampling) -> Tensor:
        ordered, words = (logits / sampling.temperature).softmax(-1).sort(-1, descending=True)
        # A word stays while those before it have not filled top_p; the likeliest always stays.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
        place = torch.multinomial(ordered, 1, generator=self.generator)
        return words.gather(-1, place)[:, 0]


def _by_row(states: Sequence[Tensor], sequences: Sequences, counts: Sequence[int]) -> list[Tensor]:
    """Hidden states of every row without padding and without what was fed after its end.

    Args:
        states: of the prompts, then of every step.
        sequences: the prompts' plan.
        counts: new tokens of each row.
    """
    steps = torch.cat(list(states[1:]), 1) if len(states) > 1 else states[0][:, :0]
    return [
        torch.cat([states[0][place.row, place.start : place.start + place.length], steps[place.row, : count - 1]])
        for place, count in zip(sequences.locations, counts, strict=True)
    ]
