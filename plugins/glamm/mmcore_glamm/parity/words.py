"""Token ids of texts and prompts, texts of ids; the learning rate over time."""

import re

from mmcore import LinearDecay
from mmcore.language.slow_text import decode_slowly
from mmcore.language.tokens import encoder_of, tokenize
from mmcore.parity import Case, Report
from mmcore.train.schedule import factor

from mmcore_glamm.config import B7, GlammConfig
from mmcore_glamm.tokens import ADDED, open_tokenizer


def config_for(case: Case, relative: str = "tokenizer.model", words: int = 32007) -> GlammConfig:
    """The published configuration with the tokenizer of a case."""
    path = (case.folder / relative) if (case.folder / relative).exists() else case.folder.parent / relative
    return B7.replace(
        tokenizer=str(path), add_tokens=True, language={"vocab_size": words}, published={"rounded_boxes": True}
    )


def tokenizer(case: Case, report: Report) -> None:
    """Ids of texts and of prompts with an image, and texts of ids."""
    opened = open_tokenizer(config_for(case, words=case.data["vocab_size"]))
    found = {token: opened.convert_tokens_to_ids(token) for token in case.data["added_tokens"]}
    report.equal("added tokens", found, case.data["added_tokens"])
    report.equal("words", len(opened), case.data["vocab_size"])
    report.equal("padding", opened.pad_token_id, case.data["pad_id"])
    encoder = encoder_of(opened)
    for number, one in enumerate(case.data["encode"]):
        ids = encoder.ids(one["text"], None)
        report.equal(f"encode {number}", ids, one["ids"])
        report.equal(f"encode {number}, without special", ids[1:], one["without_special"])
    for number, one in enumerate(case.data["image_prompts"]):
        report.equal(f"prompt {number}", tokenize(one["text"], opened), one["ids"])
    for number, one in enumerate(case.data["decode"]):
        report.equal(f"decode {number}", decode_slowly(opened, one["ids"], ADDED), one["text"])
        plain = decode_slowly(opened, one["ids"], ADDED, skip_special=True)
        report.equal(f"decode {number}, without special", plain, one["skip_special"])


def schedule(case: Case, report: Report) -> None:
    """The rate of every update but the first, which the released trainer makes at the full rate by an accident."""
    for name in case.outputs():
        found = re.fullmatch(r"out\.lr_total(\d+)_base(\S+)", name)
        assert found is not None, name
        total, base = int(found.group(1)), float(found.group(2))
        steps = sorted({*range(min(total, 120)), *range(120, total, 97), total - 2, total - 1})
        # The released scheduler writes a rate after the update, so each is that of the update before.
        rates = [base * factor(LinearDecay(warmup_steps=100), max(step - 1, 0), total) for step in steps]
        told = case.data["tolerances"]
        report.close(name, rates[1:], case.tensors[name][1:], absolute=told["atol"], relative=told["rtol"])


KINDS = {"tokenizer": tokenizer, "schedule": schedule}
