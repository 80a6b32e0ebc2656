"""Exports: the plain LLaVA gives the published model's numbers, and chat templates give the published token ids."""

import copy
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmcore.language.chat_template import fitting
from mmcore.language.conversation_templates import template
from mmcore.language.llava.layout import fold, model_config
from mmcore.language.sequence import IMAGE
from mmcore.language.tokenizer_files import write_json
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.weights.files import write_safetensors
from torch import Tensor

from mmcore_visper.config import VisperConfig
from mmcore_visper.export import TRAINING_ONLY, task_rows
from mmcore_visper.parity.common import config_of, limits_of, model_of, pixels

TOKENIZERS = {"llama3": "tokenizer_llama3", "phi3": "tokenizer_phi3_fast"}
"""Beside the conversation cases."""
PROBED_EVERY = 53
"""Positions between those whose hidden states are stored: 0, 53, 106, ..."""


def language_of(case: Case) -> str:
    """The language model of a case that names no class; only Phi-3's configuration has the entry."""
    return "phi3" if "original_max_position_embeddings" in case.data["config"] else "llama"


def export_llava(case: Case, report: Report) -> None:
    """Task vectors, expanded ids, and what transformers computes from the exported folder."""
    config = config_of(case, kind=f"llava_{language_of(case)}")
    model = model_of(case, config)
    state = model.published().to_published(model.state_dict())
    task_ids, image_id = case.data["task_token_ids"], case.data["image_token_index"]
    expected, limits = case.tensors, limits_of(case)
    report.close("task_rows", task_rows(state, config), expected["task_rows"], **limits)
    ids = expanded(expected["upstream_ids"].tolist(), [image_id] * config.image_tokens + task_ids)
    report.covers("upstream_ids")
    report.equal("hf_ids", ids, expected["hf_ids"])
    output, trouble = run_plain(
        fold(state, task_rows(state, config), task_ids, dropped=TRAINING_ONLY),
        config,
        image_id,
        ids,
        pixels([case.data["inputs"]["image_seed"]], config.image_size),
    )
    report.equal("keys missing or not expected by transformers", trouble, [])
    tail = expected["logits_tail"]
    report.close("logits_tail", output.logits[0, -len(tail) :], tail, **limits)
    hidden = torch.stack(output.hidden_states)[:, 0, ::PROBED_EVERY]
    report.close("hidden_probe", hidden, expected["hidden_probe"], **limits)


def expanded(ids: Sequence[int], image: Sequence[int]) -> list[int]:
    """Ids with every placeholder replaced by what an image becomes."""
    return [piece for index in ids for piece in (image if index == IMAGE else (index,))]


@torch.no_grad()
def run_plain(
    tensors: dict[str, Tensor], config: VisperConfig, image_id: int, ids: Sequence[int], images: Tensor
) -> tuple[Any, list[str]]:
    """What plain transformers makes of a folder with these tensors, and the keys it could not place."""
    from transformers import LlavaForConditionalGeneration

    with tempfile.TemporaryDirectory(prefix="mmcore-parity-") as name:
        folder = Path(name)
        write_safetensors(tensors, folder)
        rows = len(tensors["language_model.lm_head.weight"])
        write_json(folder / "config.json", model_config(config.language, config.tower, image_id, rows, torch.float32))
        model, info = LlavaForConditionalGeneration.from_pretrained(  # type: ignore[misc]
            folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
    trouble = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    output = model.eval()(
        input_ids=torch.tensor([ids]), pixel_values=images, output_hidden_states=True, use_cache=False
    )
    return output, [str(key) for key in trouble]


def export_chat_template(case: Case, report: Report) -> None:
    """Rendered and tokenised in one pass, every conversation gives the published ids."""
    folder = (case.folder / case.data["tokenizer"].split()[0]).parent
    for kind, given in case.data["templates"].items():
        trained = load_tokenizer(folder / TOKENIZERS[kind], template=template(kind))
        names = [*given["task_tokens"], given["image_token"]]
        exported = copy.deepcopy(trained)
        exported.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
        wanted = [*given["task_token_ids"], given["image_token_id"]]
        report.equal(f"{kind}: ids of task and image tokens", exported.convert_tokens_to_ids(names), wanted)
        text = fitting(template(kind), trained, exported, names[-1], names[:-1])
        cases = dict(given["cases"]) | {"generation_prompt": _question(given["generation_prompt_messages"])}
        for name, messages in cases.items():
            rendered = exported.apply_chat_template(
                messages, chat_template=text, tokenize=False, add_generation_prompt=name == "generation_prompt"
            )
            ids = exported(rendered, add_special_tokens=False)["input_ids"]
            report.equal(f"{kind}.{name}.ids", ids, case.tensors[f"{kind}.{name}.ids"])


def _question(described: str) -> list[dict[str, Any]]:
    """The user's turn with an image that the case describes by its quoted text."""
    text = re.search(r"'(.*)'", described)
    assert text is not None, described
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text.group(1)}]}]


KINDS: dict[str, Check] = {"export_llava": export_llava, "export_chat_template": export_chat_template}
