"""The published conversation templates by name, and those that plugins bring.

The texts and separators are the published ones to the letter, for released weights were trained on them.
"""

from collections.abc import Mapping
from typing import Any

from mmcore.errors import PluginError, RecipeError, suggest
from mmcore.language.conversation import MARKER, Frame, Mask, PlainMask, RoundMask, SpokenMask, Template, TurnMask

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
        # Qwen 2, 2.5 and 3 as their makers write a conversation; only answers are learned, with the end of their turn
        _headed(
            "qwen_chatml",
            _CHATML,
            "You are a helpful assistant.",
            "<|im_end|>\n",
            RoundMask(
                "<|im_end|>\n",
                "<|im_end|>\n" + _CHATML["assistant"],
                first=3,
                group=2,
                start=0,
                round_shift=0,
                later_shift=0,
                instruction_shift=0,
                count_end=True,
            ),
            tokens=("<|im_start|>", "<|im_end|>"),
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
