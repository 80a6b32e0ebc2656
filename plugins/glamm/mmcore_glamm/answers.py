"""Answers with masks: what the model says after each prompt, and the mask of every `[SEG]` it said.

The state that predicts a `[SEG]` is there when the token has been chosen, so masks cost no further pass through the
language model; SAM sees the pictures of those answers that have some.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmcore.contract.values import Phrase, Prediction
from mmcore.geometry import masks as rle
from mmcore.geometry.square import enlarge_each
from mmcore.language.conversation_templates import template
from mmcore.language.generate import Stop, end_ids, generate
from mmcore.language.slow_text import decode_slowly
from mmcore.language.streamed import Streamed
from torch import Tensor

from mmcore_glamm.batch import SEG, GlammBatch
from mmcore_glamm.tokens import ADDED, PHRASE, PHRASE_END, TokenIds
from mmcore_glamm.tokens import SEG as SEG_TEXT

if TYPE_CHECKING:
    from mmcore_glamm.model import Glamm

MAX_NEW_TOKENS = 512
"""Longest answer where nobody says another; every published script."""


class Answered(NamedTuple):
    """What came after each prompt of a batch."""

    ids: list[list[int]]
    """New ids of each row."""
    masks: list[Tensor]
    """Logits of each row's masks, (masks, height, width) float32 on the model's device."""
    in_prompt: list[int]
    """How many of them belong to `[SEG]`s of the prompt; they come first."""


def answer(model: "Glamm", batch: GlammBatch) -> list[Prediction]:
    """The answer to each prompt with its phrases and masks."""
    options = {} if batch.hear is None else {"hear": Streamed(batch.hear, lambda ids: _said(model, ids).text)}
    found = generate_with_masks(model, batch, TokenIds.of(model.tokenizer).seg, **options)
    result = []
    for row, ids in enumerate(found.ids):
        result.append(prediction(batch, row, _said(model, ids), found.masks[row][found.in_prompt[row] :]))
    return result


def _said(model: "Glamm", ids: Sequence[int]) -> "Said":
    """An answer, or as much of it as there is."""
    return read_answer(decode_slowly(model.tokenizer, ids, ADDED), str(model.tokenizer.eos_token))


def generate_with_masks(model: "Glamm", batch: GlammBatch, seg: int, **options: Any) -> Answered:
    """Greedy answers and the masks of every `[SEG]`, those of the prompt included.

    Args:
        model: in evaluation mode.
        batch: prompts, one a row.
        seg: vocabulary id of `[SEG]`.
        options: further ones of `mmcore.language.generate.generate`.
    """
    language, sequences = model.language, batch.sequences
    if "stop" not in options:
        ends = end_ids(model.config.language, template(model.config.template), model.tokenizer)
        options["stop"] = Stop(ids=tuple(ends))
        options["forbid"] = range(len(model.tokenizer), language.embed_tokens.num_embeddings)
    found = generate(
        language,
        language.embed(sequences, model.spliced(batch)),
        sequences,
        max_new_tokens=batch.max_new_tokens or MAX_NEW_TOKENS,
        keep_hidden=True,
        **options,
    )
    assert found.hidden is not None
    asked = _asked(sequences)
    states, counts = [], []
    for row, (ids, hidden) in enumerate(zip(found.ids, found.hidden, strict=True)):
        length = sequences.locations[row].length
        places = [place - 1 for place in asked[row]] + [length - 1 + n for n, word in enumerate(ids) if word == seg]
        drawn = places if batch.segment_rows[row] is not None else []
        states.append(hidden[drawn])
        counts.append(len(drawn))
    owned = [len(places) if count else 0 for places, count in zip(asked, counts, strict=True)]
    return Answered(found.ids, draw(model, batch, torch.cat(states), counts), owned)


def read_given(model: "Glamm", batch: GlammBatch) -> list[Prediction]:
    """The masks of the `[SEG]`s in conversations that are whole already (the released code's mask validation)."""
    last = model.hidden(batch).last
    full = draw(model, batch, last.flatten(0, 1).index_select(0, batch.seg_places), batch.num_masks)
    losses = model.language.losses_by_row(last, batch.sequences)
    said = [read_answer(" ".join(turn.text for turn in turns if turn.role == "assistant")) for turns in batch.turns]
    return [
        replace(prediction(batch, row, said[row], full[row]), measures={"text_loss": losses[row]})
        for row in range(batch.num_samples)
    ]


def draw(model: "Glamm", batch: GlammBatch, states: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Logits of masks at the size of each row's picture, from the states that asked for them."""
    owners = [row for row, count in zip(batch.segment_rows, counts, strict=True) for _ in range(count)]
    if not owners:
        return [states.new_zeros(0, *size, dtype=torch.float32) for size in batch.original_sizes]
    seen = sorted({row for row in owners if row is not None})
    maps = model.maps(batch, torch.tensor(seen, device=states.device))
    index = torch.tensor([seen.index(row) for row in owners if row is not None], device=states.device)
    return enlarge_each(model.draw(maps, states, index), batch.original_sizes, counts, model.side)


class Said(NamedTuple):
    """An answer for people: the marks of phrases and masks taken out."""

    text: str
    phrases: tuple[str, ...]
    """What stands between `<p>` and `</p>`, stripped, in order."""
    spans: tuple[tuple[int, int, tuple[int, ...]], ...]
    """First character and one past the last of each phrase in `text`, and the numbers of its `[SEG]`s."""
    num_masks: int


_PHRASE = re.compile(f"{PHRASE}(.*?){PHRASE_END}")
_TAG = re.compile("<.*?>")


def read_answer(decoded: str, stop: str = "</s>") -> Said:
    """Read an answer as the published scripts do.

    Args:
        decoded: with its special tokens.
        stop: what may end it.
    """
    text = decoded.replace("\n", "").replace("  ", " ").rsplit("ASSISTANT: ", 1)[-1]
    phrases = tuple(found.strip() for found in _PHRASE.findall(text))
    shown = _shown(text if _TAG.fullmatch(stop) else text.replace(stop, ""))
    spans, at, segs = [], 0, _segs_by_phrase(text)
    for phrase, own in zip(phrases, segs, strict=True):
        words = _shown(phrase)
        start = shown.find(words, at)
        if words and start >= 0:
            at = start + len(words)
            spans.append((start, at, own))
    return Said(shown, phrases, tuple(spans), text.count(SEG_TEXT))


def _shown(text: str) -> str:
    """Without tags and masks, with single blanks, without quotes around it."""
    return " ".join(_TAG.sub("", text).replace(SEG_TEXT, "").split()).strip("'").strip()


def _segs_by_phrase(text: str) -> list[tuple[int, ...]]:
    """The numbers of the `[SEG]`s behind each phrase and before the next."""
    found, numbers = [], iter(range(text.count(SEG_TEXT)))
    pieces = [(match.start(), match.end()) for match in _PHRASE.finditer(text)]
    for _ in range(text[: pieces[0][0]].count(SEG_TEXT) if pieces else 0):
        next(numbers)
    for place, (start, end) in enumerate(pieces):
        following = pieces[place + 1][0] if place + 1 < len(pieces) else len(text)
        inside = text[start:end].count(SEG_TEXT)
        own = [next(numbers) for _ in range(inside + text[end:following].count(SEG_TEXT))]
        found.append(tuple(own[inside:]))
    return found


def prediction(batch: GlammBatch, row: int, said: Said, logits: Tensor) -> Prediction:
    """One answer as every family gives it; each mask is named by its phrase, a lone box says what was said of it."""
    names = [batch.called for _ in range(len(logits))]
    for start, end, segs in said.spans:
        for number in segs:
            if number < len(names):
                names[number] = said.text[start:end]
    bitmaps = (logits > 0).to(torch.uint8).cpu().numpy()
    asked = () if batch.given else [one for one in batch.regions[row] if one.box_xyxy is not None]
    return Prediction(
        image_id=batch.image_ids[row],
        size=batch.original_sizes[row],
        record_id=batch.record_ids[row],
        text=said.text,
        masks=rle.encode_all(bitmaps) if len(bitmaps) else (),
        names=tuple(names),
        regions=tuple(replace(one, text=said.text) if len(asked) == 1 else one for one in asked),
        phrases=tuple(Phrase(0, a, b, tuple(s for s in segs if s < len(names))) for a, b, segs in said.spans),
    )


def _asked(sequences: Any) -> list[list[int]]:
    """Places of the `[SEG]`s in each prompt, from its first token."""
    length, found = sequences.shape[1], sequences.found[SEG].tolist()
    starts = [(place.row * length + place.start, place.length) for place in sequences.locations]
    return [[place - start for place in found if start <= place < start + size] for start, size in starts]
