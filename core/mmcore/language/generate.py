"""Continue spliced prompts word by word, a batch at a time, with a key-value cache.

The prompt rows are read once, whichever side they are padded on; every further step feeds one token per row. A row
ends at one of the end ids, after one of the stop sequences, or when its text holds a stop string; rows that have ended
take padding until all have. One copy to the host per step says which token each row took.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from mmcore.errors import ShapeError, UsageError
from mmcore.language.attention import Kernel, Sight, sight_of
from mmcore.language.models import LanguageModel
from mmcore.language.sequence import Sequences


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
        """Whether a row with these new ids has ended."""
        if ids and ids[-1] in self.ids:
            return True
        if any(tuple(ids[-len(end) :]) == end for end in self.sequences if end):
            return True
        if not self.strings or self.decode is None:
            return False
        # A token is at least one byte of text, so as many tokens as bytes reach back far enough.
        window = max(len(text.encode()) for text in self.strings) + 1
        return any(text in self.decode(list(ids[-window:])) for text in self.strings)


@dataclass(frozen=True, slots=True)
class Generated:
    """What came after each prompt."""

    ids: list[list[int]]
    """New ids of each row, with the end id or sequence that ended it."""
    probabilities: list[list[float]]
    """Probability of each of them, under the softmax of the model's logits."""
    logits: Float[Tensor, "rows steps words"] | None = None
    """Of every step, float32; rows that ended go on with padding."""
    hidden: list[Float[Tensor, "positions width"]] | None = None
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
    reader = _Reader(model, sequences)
    states = [reader.prompt(embeds)]
    stop, pick = stop or Stop(), _Pick(sampling, tuple(forbid), embeds.device)
    rows = range(len(embeds))
    answers: list[list[int]] = [[] for _ in rows]
    chances: list[list[float]] = [[] for _ in rows]
    open_rows, kept = set(rows), []
    last = states[0].gather(1, reader.ends[:, None, None].expand(-1, 1, states[0].shape[-1]))
    for step in range(max_new_tokens):
        logits = model.lm_head(last)[:, 0].float()
        if keep_logits:
            kept.append(logits)
        token, chance = pick(logits)
        taken = torch.stack([token.to(chance.dtype), chance]).tolist()  # float32 holds ids below 2^24
        for row in sorted(open_rows):
            answers[row].append(int(taken[0][row]))
            chances[row].append(taken[1][row])
            if stop.reached(answers[row]):
                open_rows.discard(row)
        if not open_rows or step + 1 == max_new_tokens:
            break
        ended = [row not in open_rows for row in rows]
        token = token.masked_fill(torch.tensor(ended, device=token.device), padding) if any(ended) else token
        last = reader.step(token)
        if keep_hidden:
            states.append(last)
    return Generated(
        ids=answers,
        probabilities=chances,
        logits=torch.stack(kept, 1) if keep_logits else None,
        hidden=_by_row(states, sequences, answers) if keep_hidden else None,
    )


class _Reader:
    """The model with its cache: reads the prompts, then one token per row and step."""

    def __init__(self, model: LanguageModel, sequences: Sequences) -> None:
        self.model = model
        self.sequences = sequences
        # A cache without a configuration keeps every key; windows are in the sight.
        self.cache = DynamicCache()
        device = sequences.ids.device
        lengths = torch.tensor([place.length for place in sequences.locations], device=device)
        starts = torch.tensor([place.start for place in sequences.locations], device=device)
        self.ends = starts + lengths - 1
        self.next = lengths
        self.kernel: Kernel = "eager" if model.attention == "eager" else "sdpa"  # "varlen" knows no cache
        self.valid = sequences.valid
        self.key_positions = sequences.positions

    def prompt(self, embeds: Tensor) -> Tensor:
        """Hidden states of the prompts."""
        sight = sight_of(self.sequences, kernel=self.kernel)
        return self.model.run(embeds, self.sequences.positions, sight, self.cache)

    def step(self, token: Int[Tensor, " rows"]) -> Float[Tensor, "rows 1 width"]:
        """Hidden state after one more token per row, which sees the row's prompt and what followed it."""
        position = self.next[:, None]
        self.next = self.next + 1
        self.valid = torch.cat([self.valid, self.valid.new_ones(len(token), 1)], 1)
        self.key_positions = torch.cat([self.key_positions, position], 1)
        longest = self.key_positions.shape[1]
        sight = Sight(position, self.key_positions, valid=self.valid, longest=longest, kernel=self.kernel)
        return self.model.run(self.model.embed_tokens(token[:, None]), position, sight, self.cache)


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


def _by_row(states: Sequence[Tensor], sequences: Sequences, answers: Sequence[Sequence[int]]) -> list[Tensor]:
    """Hidden states of every row without padding and without what was fed after its end."""
    steps = torch.cat(list(states[1:]), 1) if len(states) > 1 else states[0][:, :0]
    return [
        torch.cat([states[0][place.row, place.start : place.start + place.length], steps[place.row, : len(answer) - 1]])
        for place, answer in zip(sequences.locations, answers, strict=True)
    ]
