"""Which tokens are learned: every published mask, and nothing lost in silence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.errors import DataError
from mmcore.language.conversation import Turn, normalise
from mmcore.language.conversation_templates import template
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.language.tokens import encoder_of
from safetensors.numpy import load_file

from .test_conversation import GRIFFON
from .test_tokens import GLAMM_TOKENS, open_golden
from .tiny_tokenizers import byte_tokenizer

QUESTION, ANSWER = Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A cup.")


@pytest.fixture
def llama3() -> Any:
    return byte_tokenizer(template("llama3").tokens, bos="<|begin_of_text|>")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("llama3", "tokenizer_llama3"), ("phi3", "tokenizer_phi3"), ("phi3", "tokenizer_phi3_fast")],
)
def test_visper_learns_the_published_tokens(shared: Path, name: str, folder: str) -> None:
    golden = shared / "goldens/visper/data_conversations"
    case, stored = json.loads((golden / "case.json").read_text()), load_file(golden / "tensors.safetensors")
    tokenizer = open_golden(shared, f"visper/data_conversations/{folder}", template=template(name))
    for key, entry in case["conversations"][name].items():
        if isinstance(entry, dict):
            turns = normalise(entry["turns"], has_image=entry["has_image"])
            encoded = encode(turns, template(name), tokenizer, 4096, entry["has_image"])
            np.testing.assert_array_equal(encoded.ids, stored[f"{name}.{key}.input_ids"])
            np.testing.assert_array_equal(encoded.labels, stored[f"{name}.{key}.labels"])
            assert (encoded.problem is not None) == entry["all_masked"], key


@pytest.mark.parametrize("name", ["gemma", "llama", "llama3", "llama_legacy", "qwen2", "qwen25"])
def test_griffon_learns_the_published_tokens(shared: Path, name: str) -> None:
    folder = shared / f"goldens/griffon/conv_{name}"
    case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
    tokenizer = open_golden(shared, f"griffon/conv_{name}/tokenizer", pad="unknown")
    for sample in case["samples"]:
        style = template(GRIFFON.get(sample["version"], sample["version"]))
        entries = [{"from": role, "value": text} for role, text in sample["turns"]]
        turns = normalise(entries, has_image=sample["has_image"], image=style.image, keep_first=style.keep_first)
        regions = {"<image>": IMAGE, "<region>": IMAGE}
        encoded = encode(turns, style, tokenizer, None, sample["has_image"], regions)
        key = f"{sample['version']}.{sample['sample']}"
        np.testing.assert_array_equal(encoded.ids, stored[f"{key}.input_ids"], key)
        np.testing.assert_array_equal(encoded.labels, stored[f"{key}.labels"], key)
        assert (encoded.problem is not None) == sample["mismatch_warning"], key


def test_glamm_learns_the_published_tokens(shared: Path) -> None:
    compared = 0
    for folder in sorted((shared / "goldens/glamm").glob("data_main_*")):
        case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
        name = f"glamm/{folder.name}/tokenizer.model"
        tokenizer = open_golden(shared, name, pad="unknown", legacy=True, added=GLAMM_TOKENS)
        for key, entry in case["samples"].items():
            for row, text in enumerate(entry.get("batch", {}).get("conversation_list", ())):
                encoded = encode(glamm_turns(text), template("llava_v1"), tokenizer)
                ids, labels = (stored[f"{key}.batch.{what}"][row] for what in ("input_ids", "labels"))
                length = min(len(encoded.ids), len(ids))
                np.testing.assert_array_equal(encoded.ids[:length], ids[:length])
                np.testing.assert_array_equal(encoded.labels[:length], labels[:length])
                compared += 1
    assert compared > 30


def glamm_turns(text: str) -> list[Turn]:
    rounds = text.removeprefix(template("llava_v1").first).split("</s>")[:-1]
    pairs = [piece.removeprefix("USER: ").split(" ASSISTANT: ") for piece in rounds]
    return [turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer))]


def test_a_long_sample_is_cut_and_says_by_how_much(llama3: Any) -> None:
    turns = (QUESTION, Turn("assistant", "A cup. " * 50))
    whole = encode(turns, template("llama3"), llama3)
    limit = len(whole.ids) - 100
    cut = encode(turns, template("llama3"), llama3, limit)
    assert (len(cut.ids), cut.cut, cut.problem) == (limit, 100, None)
    np.testing.assert_array_equal(cut.ids, whole.ids[:limit])
    np.testing.assert_array_equal(cut.labels, whole.labels[:limit])
    assert (whole.cut, whole.problem) == (0, None)


@pytest.mark.parametrize("has_image", [True, False])
def test_a_sample_whose_answers_are_all_cut_off_says_so(llama3: Any, has_image: bool) -> None:
    turns = (Turn("user", "<image>\n" + "Why? " * 50), ANSWER)
    encoded = encode(turns, template("llama3"), llama3, 200, has_image)
    assert (encoded.labels == IGNORE).all()
    assert encoded.cut > 0
    assert encoded.problem == "no answer lies within the maximum length"


def test_a_separator_in_an_answer_makes_the_published_rule_give_up_and_says_so(llama3: Any) -> None:
    encoded = encode((QUESTION, Turn("assistant", "Left <|eot_id|> right.")), template("llama3"), llama3)
    assert (encoded.labels == IGNORE).all()
    assert "does a turn hold separators?" in str(encoded.problem)


def test_a_conversation_without_an_answer_says_so(llama3: Any) -> None:
    encoded = encode((QUESTION, Turn("assistant", "")), template("llama3"), llama3)
    assert (encoded.labels == IGNORE).all()
    assert encoded.problem


def test_the_image_is_never_a_label(llama3: Any) -> None:
    for name in ("llama3", "vicuna_v1", "mpt"):
        encoded = encode((QUESTION, ANSWER), template(name), llama3)
        assert (encoded.ids == IMAGE).sum() == 1
        assert not (encoded.labels == IMAGE).any()


def test_the_template_plain_takes_one_question_with_an_image(llama3: Any) -> None:
    with pytest.raises(DataError, match="needs one question with <image> and one answer, not 4 turns"):
        encode((QUESTION, ANSWER, QUESTION, ANSWER), template("plain"), llama3)


def test_every_stretch_of_a_conversation_is_tokenised_once(llama3: Any) -> None:
    turns = [
        turn for number in range(10) for turn in (Turn("user", f"Why {number}?"), Turn("assistant", f"So {number}."))
    ]
    encode(turns, template("llama3"), llama3)
    looked_up = encoder_of(llama3)._stretch.cache_info()
    # Headers and system text, then one question, one answer per round, and the newlines that questions end with.
    assert looked_up.misses <= 2 * 10 + 8
    encode(turns, template("llama3"), llama3)
    assert encoder_of(llama3)._stretch.cache_info().misses == looked_up.misses
