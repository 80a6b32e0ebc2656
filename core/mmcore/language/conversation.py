"""Conversations as text: who speaks, how each published template writes a turn, and which part of it is learned.

A template is data: what stands before and after the text of each speaker, and the rule by which the published code
chose the learned tokens (`mmcore.language.labels` applies it). So one renderer serves every family:

    first + text + user.after + assistant.before + text + assistant.after + user.before + text + ...

An empty last turn is left open, for generation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from mmcore.errors import DataError, PluginError, RecipeError, suggest
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


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAVA_V1 = VICUNA.replace("user", "human")
MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, and assist the user with a "
    "variety of tasks using natural language.The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
"""The missing space is the published one."""
LLAVA_LLAMA = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
"""The two spaces are the published ones."""
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."


def _headed(name: str, header: Mapping[str, str], system: str, end: str, mask: Mask, **more: Any) -> Template:
    """A template whose turns are a header, the text, and a token that ends the turn."""
    user, assistant = (Frame(header[role], end, header[role]) for role in ("user", "assistant"))
    first = (header["system"] + system + end if system else "") + user.before
    return Template(name=name, system=system, first=first, user=user, assistant=assistant, mask=mask, stop=end, **more)


def _spaced(name: str, system: str, **more: Any) -> Template:
    """Vicuna's `USER: ... ASSISTANT: ...</s>` (FastChat's style with two separators)."""
    return Template(
        name=name,
        system=system,
        first=f"{system} USER: ",
        user=Frame("USER: ", " ", "USER:"),
        assistant=Frame("ASSISTANT: ", "</s>", "ASSISTANT:"),
        mask=RoundMask("</s>", " ASSISTANT: "),
        tokens=("</s>",),
        stop="</s>",
        **more,
    )


def _instructed(name: str, system: str) -> Template:
    """LLaMA-2's `[INST] ... [/INST] ... </s>`, the system's text inside the first instruction."""
    return Template(
        name=name,
        system=system,
        first=f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
        user=Frame("<s>[INST] ", " [/INST]", ""),
        assistant=Frame(" ", " </s>", ""),
        mask=RoundMask("</s>", "[/INST] "),
        tokens=("<s>", "</s>"),
        stop="</s>",
    )


def _spoken(name: str, system: str, **more: Any) -> Template:
    """LLaVA's first format; training writes it in another layout than inference does (`SpokenMask`)."""
    return Template(
        name=name,
        system=system,
        first=f"{system}###Human: ",
        user=Frame("Human: ", "###", "Human:"),
        assistant=Frame("Assistant: ", "###", "Assistant:"),
        mask=SpokenMask(),
        stop="###",
        keep_first=True,
        **more,
    )


_LLAMA_3 = {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant")}
_LLAMA_3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI_3 = {"system": "<|system|>\n", "user": "\n<|user|>\n", "assistant": "\n<|assistant|>\n"}
_GEMMA = {"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"}
_CHATML = {role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")}

TEMPLATES: Mapping[str, Template] = {
    item.name: item
    for item in (
        # VisPer-LM, ola_vlm/conversation.py and train.py: preprocess_llama_3, preprocess_phi_3
        _headed(
            "llava_llama_3",
            _LLAMA_3,
            VICUNA,
            "<|eot_id|>",
            RoundMask("<|eot_id|>", "<|eot_id|>" + _LLAMA_3["assistant"], first=3, group=2),
            tokens=_LLAMA_3_TOKENS,
        ),
        _headed(
            "llava_phi_3",
            _PHI_3,
            "You are a helpful AI assistant.",
            "<|end|>",
            RoundMask("<|end|>", "<|end|>" + _PHI_3["assistant"], first=3, group=2, round_shift=0, later_shift=-2),
            tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ),
        # LLaVA-1.5, GLaMM (llava_v1), Griffon: griffon/conversation.py and datasets/base_class.py
        _spaced("vicuna_v1", VICUNA),
        _spaced("llava_v1", LLAVA_V1),
        _spaced("v1_mmtag", MMTAG, image=f"<Image>{MARKER}</Image>"),
        _instructed("llava_llama_2", LLAVA_LLAMA),
        _instructed("llama_2", LLAMA_2),
        _headed(
            "gemma_instruct",
            _GEMMA,
            "",
            "<end_of_turn>\n",
            # Both lengths lose the BOS; the separator adds its two tokens to the round.
            RoundMask(
                "<end_of_turn>\n",
                "<end_of_turn>\n" + _GEMMA["assistant"],
                first=2,
                group=2,
                round_shift=1,
                instruction_shift=-1,
            ),
            tokens=("<start_of_turn>", "<end_of_turn>"),
        ),
        _headed(
            "qwen2",
            _CHATML,
            "You are a helpful assistant.",
            "<|im_end|>\n",
            # The published code takes the two names only where they are all the extra tokens, else InternLM's numbers.
            TurnMask((198,), ("<|im_start|>", "<|im_end|>"), only_if_extra=2, otherwise=(92543, 92542)),
            tokens=("<|im_start|>", "<|im_end|>"),
        ),
        _headed(
            "mpt",
            _CHATML,
            MPT,
            "<|im_end|>",
            RoundMask(
                "<|im_end|>",
                "<|im_end|>" + _CHATML["assistant"],
                first=3,
                group=2,
                start=0,
                instruction_shift=0,
                count_end=True,
            ),
            tokens=("<|im_start|>", "<|im_end|>"),
        ),
        _headed(
            "llama_3_turns",
            {**_LLAMA_3, "system": "<|begin_of_text|>" + _LLAMA_3["system"]},
            LLAVA_LLAMA,
            "<|eot_id|>",
            TurnMask(tokens=("<|begin_of_text|>", *_LLAMA_3_TOKENS), strip=True),
            tokens=("<|begin_of_text|>", *_LLAMA_3_TOKENS),
        ),
        _spoken("llava_v0", LLAVA_V1),
        _spoken("v0_mmtag", MMTAG, image=f"<Image>{MARKER}</Image>"),
        Template(
            name="plain",
            system="",
            first="",
            user=Frame("", "\n", ""),
            assistant=Frame("", "\n", ""),
            mask=PlainMask(),
            stop="\n",
        ),
    )
}

ALIASES = {
    "llama3": "llava_llama_3",
    "phi3": "llava_phi_3",
    "v1": "vicuna_v1",
    "gemma": "gemma_instruct",
    "chatml": "qwen2",
    "internlm": "qwen2",
    "v0_plain": "plain",
}
"""Other published names of the same templates."""


_brought: dict[str, Template] = {}


def add_templates(templates: Mapping[str, Template]) -> None:
    """Templates of plugins, known by their names from now on; the same ones may come again.

    Raises:
        PluginError: the core has one of this name, or another one was added under it.
    """
    for name, one in templates.items():
        if not isinstance(one, Template):
            raise PluginError(f"conversation_templates gives a {type(one).__name__} under {name!r}, not a Template")
        if name in TEMPLATES or name in ALIASES or _brought.get(name, one) != one:
            raise PluginError(
                f"there is another conversation template {name!r}",
                where="the hook conversation_templates",
                do="choose another name for the plugin's",
            )
        _brought[name] = one


def template(name: str) -> Template:
    """The template of a published name, or of a plugin.

    Raises:
        RecipeError: there is none of this name.
    """
    found = TEMPLATES.get(ALIASES.get(name, name)) or _brought.get(name)
    if found is None:
        known = [*TEMPLATES, *ALIASES, *_brought]
        raise RecipeError(
            f"there is no conversation template {name!r}",
            where="model.template",
            known=known,
            do=suggest(name, known, "choose one of these"),
        )
    return found


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
