"""Conversations as text: who speaks, how a template writes a turn, and which part of it is learned.

A template is data: what stands before and after the text of each speaker, and the rule by which the published code
chose the learned tokens (`mmcore.language.labels` applies it). So one renderer serves every family:

    first + text + user.after + assistant.before + text + assistant.after + user.before + text + ...

An empty last turn is left open, for generation. The published ones are in `mmcore.language.conversation_templates`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from mmcore.errors import DataError, suggest
from mmcore.language.sequence import Turn

MARKER = "<image>"
"""Where an image stands in the text; never a vocabulary item."""

ROLES = {"human": "user", "gpt": "assistant"}
"""The speakers of LLaVA's files and ours."""


class Frame(NamedTuple):
    """What one speaker's text is wrapped in."""

    before: str
    after: str
    open: str
    """What stands instead of all three when the turn has no text yet."""


class RoundMask(NamedTuple):
    """Learn what follows `boundary` in every round of question and answer (LLaVA's rule and its descendants).

    The text is split at `end`; `first` pieces make the first round, `group` pieces each later one. A round's length
    is that of its text tokenised alone. The shifts say how that differs from its length within the whole: the dropped
    separator, the BOS that tokenising alone adds, the dummy prefix. Where the sum misses the length of the whole,
    the published code gives up on the sample.
    """

    end: str
    boundary: str
    """Must occur exactly once in a round; answers that contain it end the search."""
    first: int = 1
    group: int = 1
    start: int = 1
    """Tokens before the first round (BOS)."""
    round_shift: int = 0
    instruction_shift: int = -2
    later_shift: int = 0
    """Added to both in rounds after the first."""
    count_end: bool = False
    """Whether `end` is counted by tokenising it, not by the BOS that stands for it."""


class TurnMask(NamedTuple):
    """Every turn is tokenised alone; the assistant's are learned whole, header included (Griffon with Qwen, Llama 3).

    Some ids are learned wherever they stand, also in questions: the published lists name them by number.
    """

    ids: tuple[int, ...] = ()
    """Learned everywhere, by number (198 is the newline of Qwen)."""
    tokens: tuple[str, ...] = ()
    """Learned everywhere, by name."""
    only_if_extra: int | None = None
    """`tokens` counts only for a tokenizer with this many extra special tokens; else `otherwise` does."""
    otherwise: tuple[int, ...] = ()
    strip: bool = False
    """Whether white space around a turn's text is dropped."""


class PlainMask(NamedTuple):
    """Only the image marker and the answer are written; the answer is learned (LLaVA's first stage)."""

    end: str = "\n"


class SpokenMask(NamedTuple):
    """`### Speaker: text` lines below a header; all is learned but the header and what the user says (LLaVA v0)."""

    signal: str = "### "
    names: tuple[str, str] = ("Human", "Assistant")


Mask = RoundMask | TurnMask | PlainMask | SpokenMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a conversation is written and learned."""

    name: str
    system: str
    """The instruction to the assistant, without its frame."""
    first: str
    """Everything before the text of the first user turn, the system's instruction included."""
    user: Frame
    assistant: Frame
    mask: Mask
    tokens: tuple[str, ...] = ()
    """What must be single tokens of the vocabulary."""
    image: str = MARKER
    """How a turn writes its image."""
    stop: str = ""
    """The text that ends an answer."""
    keep_first: bool = False
    """Whether a conversation may begin with the assistant; elsewhere such a turn is dropped."""
    after_image: str = ""
    """Written right behind every image: tokens of an exported folder that stand for constant vectors."""

    def with_images(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns with what stands behind their images."""
        if not self.after_image:
            return tuple(turns)
        return tuple(Turn(role, text.replace(MARKER, MARKER + self.after_image)) for role, text in turns)

    def written(self, turns: Sequence[Turn]) -> str:
        """`render`, with what stands behind images."""
        return self.render(self.with_images(turns))

    def render(self, turns: Sequence[Turn]) -> str:
        """The text of a conversation; a turn without text is left open.

        Raises:
            DataError: the first turn has no text.
        """
        if not turns or not (turns[0].text or turns[0].role == "assistant"):
            raise DataError("the first turn of the conversation has no text", do="leave this record out")
        pieces: list[str] = []
        for number, (role, text) in enumerate(turns):
            frame = self.user if role == "user" else self.assistant
            before = self.first if number == 0 and role == "user" else frame.before
            if number == 0 and role != "user":
                before = self.first.removesuffix(self.user.before) + frame.before
            pieces.append(before + text + frame.after if text else frame.open)
        return "".join(pieces)


def normalise(
    conversations: Iterable[Mapping[str, Any]], *, has_image: bool = True, image: str = MARKER, keep_first: bool = False
) -> tuple[Turn, ...]:
    """The turns of a LLaVA record: a first turn that is not the user's dropped, image markers at the front.

    In a turn that has the marker, all its markers go, white space around the rest is stripped, and one marker and a
    newline come first; the rest of the published code counts on it (VisPer-LM reference 6.2).

    Args:
        conversations: `{"from": "human" or "gpt", "value": text}`, alternating.
        has_image: False leaves the text as it is; a marker in it is then only text.
        image: how a turn writes its image (`Template.image`).
        keep_first: whether the assistant may speak first.

    Raises:
        DataError: a turn is malformed, the user says nothing, or the speakers do not alternate.
    """
    turns = [_turn(number, entry) for number, entry in enumerate(conversations)]
    if turns and turns[0].role != "user" and not keep_first:
        del turns[0]
    if not any(turn.role == "user" for turn in turns):
        raise DataError(
            "the conversation has no human turn", known='{"from": "human", "value": ...}', do="leave this record out"
        )
    for number, (turn, following) in enumerate(pairwise(turns)):
        if turn.role == following.role:
            spoken = next(name for name, role in ROLES.items() if role == turn.role)
            raise DataError(
                f"the roles of the conversation do not alternate: {spoken!r} speaks twice in a row",
                where=f"conversations, turns {number} and {number + 1} (after a leading 'gpt' turn is dropped)",
                known="human, gpt, human, gpt, ...",
                do="join the two turns or leave this record out",
            )
    return tuple(Turn(role, to_front(text, image)) for role, text in turns) if has_image else tuple(turns)


def to_front(text: str, image: str = MARKER) -> str:
    """A turn's text with its image marker, if any, alone and first.

    >>> to_front("Look at <image> and count. ")
    '<image>\\nLook at  and count.'
    """
    if MARKER not in text:
        return text
    return f"{MARKER}\n{text.replace(MARKER, '').strip()}".strip().replace(MARKER, image)


def _turn(number: int, entry: Any) -> Turn:
    role = entry.get("from") if isinstance(entry, Mapping) else None
    text = entry.get("value") if isinstance(entry, Mapping) else None
    where = f"conversations, turn {number}"
    if not isinstance(role, str) or not isinstance(text, str):
        raise DataError(
            "a turn of the conversation has no text 'from' and 'value'",
            where=where,
            known='{"from": "human" or "gpt", "value": text}',
        )
    if role not in ROLES:
        raise DataError(f"unknown speaker {role!r}", where=where, known=ROLES, do=suggest(role, ROLES, "rename it"))
    return Turn(ROLES[role], text)
