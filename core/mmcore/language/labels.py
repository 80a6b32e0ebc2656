"""A conversation as token ids and the labels that the published code learned from it.

Each template names its rule (`mmcore.language.conversation`); the functions here apply one rule each. The rules are
kept as published, with the tokens they learn too many and the samples they give up on: `Encoded.problem` says so then,
and `Encoded.cut` counts what did not fit, so that nothing of a sample goes missing in silence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mmcore.errors import DataError
from mmcore.language.conversation import MARKER, PlainMask, RoundMask, SpokenMask, Template, TurnMask
from mmcore.language.sequence import IGNORE, Encoded, Turn
from mmcore.language.tokens import IMAGES, encoder_of

Ids = list[int]
Tokenise = Callable[[str], Ids]


def encode(
    turns: Sequence[Turn],
    template: Template,
    tokenizer: Any,
    max_length: int | None = None,
    has_image: bool = True,
    placeholders: Mapping[str, int] = IMAGES,
) -> Encoded:
    """Token ids and labels of a conversation.

    Args:
        turns: from `conversation.normalise`.
        template: how they are written and learned.
        tokenizer: from `tokens.load_tokenizer`.
        max_length: tokens (placeholders count as one) beyond which the end is cut off; None keeps all.
        has_image: False takes placeholders for text, as the published code does with samples without an image.
        placeholders: marker -> negative id.

    Returns:
        Ids and labels of at most `max_length` tokens. `problem` is set when nothing of them is learned.
    Raises:
        DataError: the template cannot write these turns.
    """
    turns = template.with_images(turns)
    encoder, used = encoder_of(tokenizer), placeholders if has_image else None

    def tokenise(text: str) -> Ids:
        return encoder.ids(text, used)

    match template.mask:
        case RoundMask() as rule:
            ids, labels, problem = _by_rounds(rule, template.render(turns), tokenise, tokenizer, max_length, has_image)
        case TurnMask() as rule:
            ids, labels, problem = _by_turns(rule, template, turns, tokenise, tokenizer)
        case PlainMask() as rule:
            ids, labels, problem = _plain(rule, turns, tokenise)
        case SpokenMask() as rule:
            ids, labels, problem = _spoken(rule, template, turns, tokenise)
    cut = max(0, len(ids) - max_length) if max_length is not None else 0
    if cut:
        ids, labels = ids[:max_length], labels[:max_length]
    if problem is None and not (labels != IGNORE).any():
        problem = "no answer lies within the maximum length" if cut else "the conversation has no answer to learn"
    return Encoded(ids, labels, cut, problem)


Masked = tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"], str | None]


def _by_rounds(
    rule: RoundMask, text: str, tokenise: Tokenise, tokenizer: Any, max_length: int | None, has_image: bool
) -> Masked:
    ids = np.array(tokenise(text), np.int64)
    labels = ids.copy()
    place = rule.start
    labels[:place] = IGNORE
    closing = len(tokenise(rule.end)) if rule.count_end else 0
    for number, piece in enumerate(_rounds(rule, text)):
        question, *answer = piece.split(rule.boundary)
        if len(answer) != 1:
            break
        later = rule.later_shift if number else 0
        instruction = len(tokenise(question + rule.boundary)) + rule.instruction_shift + later
        labels[place : place + max(0, instruction)] = IGNORE
        place += len(tokenise(piece)) + rule.round_shift + later + closing
    labels[place:] = IGNORE
    # The published code counts what is not padding, and a text without an image is cut before it is counted.
    total = int((ids[: None if has_image else max_length] != tokenizer.pad_token_id).sum())
    if place != total and (max_length is None or place < max_length):
        labels[:] = IGNORE
        return ids, labels, f"its rounds have {place} tokens and the whole has {total}; does a turn hold separators?"
    return ids, labels, None


def _rounds(rule: RoundMask, text: str) -> list[str]:
    """The text cut at the end of turns and joined to rounds; what follows an empty one does not count."""
    pieces = text.split(rule.end)
    starts = [0, *range(rule.first, len(pieces), rule.group)]
    rounds = [rule.end.join(pieces[start:stop]) for start, stop in zip(starts, [*starts[1:], len(pieces)])]
    return rounds[: rounds.index("")] if "" in rounds else rounds


def _by_turns(rule: TurnMask, template: Template, turns: Sequence[Turn], tokenise: Tokenise, tokenizer: Any) -> Masked:
    def alone(text: str) -> Ids:
        # The BOS of Llama 3 is written in the text, so the one that the tokenizer adds is taken away.
        found = tokenise(text)
        return found[1:] if found[:1] == [tokenizer.bos_token_id] else found

    system = alone(template.first.removesuffix(template.user.before))
    ids, learned = [*system], [False] * len(system)
    for role, text in turns:
        frame = template.user if role == "user" else template.assistant
        part = alone(frame.before + (text.strip() if rule.strip else text) + frame.after)
        ids += part
        learned += [role == "assistant"] * len(part)
    found = np.array(ids, np.int64)
    keep = np.array(learned) | np.isin(found, _learned_everywhere(rule, tokenizer))
    return found, np.where(keep & (found >= 0), found, IGNORE), None


def _learned_everywhere(rule: TurnMask, tokenizer: Any) -> list[int]:
    named = rule.only_if_extra is None or len(tokenizer.extra_special_tokens) == rule.only_if_extra
    return [*rule.ids, *(tokenizer.convert_tokens_to_ids(list(rule.tokens)) if named else rule.otherwise)]


def _plain(rule: PlainMask, turns: Sequence[Turn], tokenise: Tokenise) -> Masked:
    if len(turns) != 2 or MARKER not in turns[0].text:
        raise DataError(
            f"the template plain needs one question with {MARKER} and one answer, not {len(turns)} turns",
            do="choose a conversation template for this data",
        )
    ids = np.array(tokenise(MARKER + turns[1].text + rule.end), np.int64)
    labels = ids.copy()
    labels[: len(tokenise(MARKER))] = IGNORE
    return ids, labels, None


def _spoken(rule: SpokenMask, template: Template, turns: Sequence[Turn], tokenise: Tokenise) -> Masked:
    header = f"{template.system}\n\n"
    names = {"user": rule.names[0], "assistant": rule.names[1]}
    lines = [f"{rule.signal}{names[role]}: {text}\n" for role, text in turns]
    ids = np.array(tokenise(header + "".join(lines) + rule.signal), np.int64)
    labels = ids.copy()
    place = len(tokenise(header))
    labels[:place] = IGNORE
    for turn, line in zip(turns, lines):
        length = len(tokenise(line))
        if turn.role == "user":
            labels[place + 2 : place + length] = IGNORE  # the signal's two tokens stay learned
        place += length
    return ids, labels, None
