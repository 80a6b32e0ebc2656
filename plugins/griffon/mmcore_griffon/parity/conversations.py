"""Conversation versions: what is said, its tokens, and which of them are learned."""

from typing import Any

import numpy as np
from mmcore.errors import RecipeError
from mmcore.language.conversation import Template, normalise
from mmcore.language.conversation_templates import template
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, IMAGE, Turn
from mmcore.language.tokens import load_tokenizer, tokenize
from mmcore.parity import Case, Check, Report

from mmcore_griffon.config import VERSIONS

MARKERS = {"<image>": IMAGE, "<region>": IMAGE}
"""A region is written as a second image before it is tokenised."""


def style_of(version: str) -> Template:
    """The template of a published version; what the published table does not have is Vicuna's."""
    try:
        return template(VERSIONS.get(version, version))
    except RecipeError:
        return template("vicuna_v1")


def turns_of(said: list[tuple[str, str]], style: Template, *, has_image: bool) -> tuple[Turn, ...]:
    """The turns of a case as a template wants them."""
    entries = [{"from": role, "value": text} for role, text in said]
    return normalise(entries, has_image=has_image, image=style.image, keep_first=style.keep_first)


def conversations(case: Case, report: Report) -> None:
    """Every sample of every version."""
    told = case.data["tokenizer"]
    tokenizer = load_tokenizer(case.folder / told["folder"], pad="unknown")
    if told["pad_token_id"] is not None:  # where there is none the published collator pads with 0, and ours adds one
        report.equal("tokenizer.pad_token_id", tokenizer.pad_token_id, told["pad_token_id"])
    for sample in case.data["samples"]:
        _sample(case, report, sample, tokenizer)


def _sample(case: Case, report: Report, sample: dict[str, Any], tokenizer: Any) -> None:
    key, style = f"{sample['version']}.{sample['sample']}", style_of(sample["version"])
    turns = turns_of(sample["turns"], style, has_image=sample["has_image"])
    encoded = encode(turns, style, tokenizer, None, sample["has_image"], MARKERS)
    report.equal(f"{key}.input_ids", encoded.ids, case.tensors[f"{key}.input_ids"])
    report.equal(f"{key}.labels", encoded.labels, case.tensors[f"{key}.labels"])
    report.equal(f"{key}.mismatch_warning", encoded.problem is not None, sample["mismatch_warning"])
    report.equal(f"{key}.supervised", int((encoded.labels != IGNORE).sum()), sample["supervised"])
    if f"{key}.generation_ids" in case.tensors:
        _open(case, report, key, sample, style, tokenizer)


def _open(case: Case, report: Report, key: str, sample: dict[str, Any], style: Template, tokenizer: Any) -> None:
    """The prompt of the first question with the answer left open."""
    turns = turns_of(sample["turns"], style, has_image=sample["has_image"])
    asked = next(turn for turn in turns if turn.role == "user")
    prompt = style.render((asked, Turn("assistant", "")))
    shown = prompt.replace("<region>", "<image>")
    report.equal(f"{key}.generation_prompt", shown, sample["generation_prompt"])
    ids = tokenize(prompt, tokenizer, MARKERS)
    report.equal(f"{key}.generation_ids", np.asarray(ids), case.tensors[f"{key}.generation_ids"])


KINDS: dict[str, Check] = {"conv_": conversations}
