"""The Jinja chat template of an exported folder: conversations as they were trained on, in one tokenisation.

Training tokenises the text around an image apart from it; others render a whole conversation and tokenise once. Both
give the same ids when the image's placeholder and the tokens after it are followed by the right break: a newline, or
with SentencePiece a space and a newline, since that tokenizer puts a dummy prefix before the text after the image.
Which one is right follows from the tokenizer, not from its name: `fitting` tries them against the ids of training.

The template loops over the parts of a message in the plain way, so that servers which look for such loops (vLLM) hand
over images as parts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from mmcore.errors import WeightsError
from mmcore.language.conversation import MARKER, Template
from mmcore.language.sequence import IMAGE, Turn
from mmcore.language.tokens import tokenize

BREAKS = ("\n", " \n")
"""What may stand between an image and the text of its turn."""

PROBES = (
    (Turn("user", f"{MARKER}\nWhat is on the table?"), Turn("assistant", "A red cup.")),
    (
        Turn("user", f"{MARKER}\n1. Name it."),
        Turn("assistant", "It is\na bus"),
        Turn("user", "And this?"),
        Turn("assistant", "12 — two trees."),
    ),
    (Turn("user", MARKER), Turn("assistant", "a street")),
    (Turn("user", "What is 7 + 5?"), Turn("assistant", "12")),
    (Turn("user", f"{MARKER}\nWhere?"), Turn("assistant", "")),
)
"""Conversations on which a template is compared with training; the last is left open."""


def chat_template(
    template: Template, image: str, following: Sequence[str] = (), between: str = "\n", *, bos: bool = True
) -> str:
    """The Jinja text of one model.

    Args:
        template: how conversations were written in training.
        image: the image's placeholder token; the processor repeats it once per image token.
        following: the tokens that follow an image, in order.
        between: what stands between them and the text of the turn; nothing when the turn has no text.
        bos: whether a conversation begins with the tokenizer's BOS.

    Raises:
        WeightsError: the template has no fixed text around each turn (an instruction inside the first question).
    """
    opening = template.first.removesuffix(template.user.before)
    before, system, after = opening.partition(template.system) if template.system else (opening, "", "")
    if not template.user.before or not template.assistant.open or opening == template.first:
        raise WeightsError(
            f"conversations of the template {template.name} cannot be written as a chat template",
            where="export, chat_template.jinja",
            do="export with --format upstream",
        )
    return _JINJA.format(
        bos="{{- bos_token -}}\n" if bos else "",
        before=_quote(before),
        system=_quote(system),
        after=_quote(after),
        user=_quote(template.user.before),
        user_end=_quote(template.user.after),
        assistant=_quote(template.assistant.before),
        assistant_end=_quote(template.assistant.after),
        open=_quote(template.assistant.open),
        image=_quote(template.image.replace(MARKER, image + "".join(following))),
        between=_quote(between),
    )


def fitting(template: Template, trained: Any, exported: Any, image: str, following: Sequence[str]) -> str:
    """The chat template that gives the ids of training.

    Args:
        template: how conversations were written in training.
        trained: the tokenizer of training.
        exported: the tokenizer of the folder, with tokens for the image and for the vectors after it.
        image: the image's placeholder token.
        following: those that follow it.

    Raises:
        WeightsError: none does, so that an exported folder would see other tokens than the model learned from.
    """
    stands_for = {IMAGE: exported.convert_tokens_to_ids([image, *following])}
    wanted = [_training_ids(turns, template, trained, stands_for) for turns in PROBES]
    for between, bos in product(BREAKS, (True, False)):
        text = chat_template(template, image, following, between, bos=bos)
        if [chat_ids(turns, text, exported) for turns in PROBES] == wanted:
            return text
    raise WeightsError(
        f"no chat template of {template.name} gives the token ids of training in one tokenisation",
        where=f"tokenizer {trained.name_or_path}",
        do="export with --format upstream",
    )


def _training_ids(
    turns: Sequence[Turn], template: Template, tokenizer: Any, stands_for: Mapping[int, Sequence[int]]
) -> list[int]:
    ids = tokenize(template.render(turns), tokenizer).tolist()
    return [piece for index in ids for piece in stands_for.get(index, (index,))]


def chat_ids(turns: Sequence[Turn], text: str, tokenizer: Any) -> list[int]:
    """The ids of a conversation that a chat template writes; one that ends with an open turn awaits the answer."""
    is_open = not turns[-1].text
    messages = to_messages(turns[:-1] if is_open else turns)
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=text, tokenize=False, add_generation_prompt=is_open
    )
    # As transformers does it: a text that brings its BOS gets no other.
    brings = tokenizer.bos_token is not None and rendered.startswith(tokenizer.bos_token)
    return tokenizer(rendered, add_special_tokens=not brings)["input_ids"]


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Our turns as the messages that chat templates take."""
    return [{"role": turn.role, "content": _content(turn.text)} for turn in turns]


def _content(text: str) -> str | list[dict[str, str]]:
    if not text.startswith(MARKER):
        return text
    return [{"type": "image"}, {"type": "text", "text": text.removeprefix(MARKER).removeprefix("\n")}]


_quote: Callable[[str], str] = json.dumps
"""A Jinja string literal: it understands JSON's escapes, and the trimming around blocks cannot touch what they mean."""

# Everything that is printed stands in an expression, and every block and expression strips the blanks around it: the
# line breaks here are for the reader only.
_JINJA = """\
{{%- if messages[0].role == "system" -%}}
  {{%- set system = messages[0].content -%}}
  {{%- set rest = messages[1:] -%}}
{{%- else -%}}
  {{%- set system = {system} -%}}
  {{%- set rest = messages -%}}
{{%- endif -%}}
{{%- if system is not string -%}}
  {{%- set system = system | map(attribute="text") | join -%}}
{{%- endif -%}}
{bos}{{{{- {before} + system + {after} -}}}}
{{%- for message in rest -%}}
  {{%- if message.role == "user" -%}}
    {{{{- {user} -}}}}
  {{%- elif message.role == "assistant" -%}}
    {{{{- {assistant} -}}}}
  {{%- else -%}}
    {{{{- raise_exception("unknown role " + message.role + "; known: user, assistant, and system first") -}}}}
  {{%- endif -%}}
  {{%- if message.content is string -%}}
    {{{{- message.content -}}}}
  {{%- else -%}}
    {{%- set turn = namespace(between="") -%}}
    {{%- for part in message.content if part.type == "image" -%}}
      {{{{- {image} -}}}}
      {{%- set turn.between = {between} -%}}
    {{%- endfor -%}}
    {{%- for part in message.content if part.type == "text" and part.text -%}}
      {{{{- turn.between + part.text -}}}}
      {{%- set turn.between = "" -%}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{%- if message.role == "user" -%}}
    {{{{- {user_end} -}}}}
  {{%- else -%}}
    {{{{- {assistant_end} -}}}}
  {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
  {{{{- {open} -}}}}
{{%- endif -%}}
"""
