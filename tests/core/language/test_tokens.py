"""Token ids as the published tokenizers gave them, and what can be wrong with a tokenizer."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.errors import MissingDataError, RecipeError, WeightsError
from mmcore.language.conversation import Turn, normalise
from mmcore.language.conversation_templates import template
from mmcore.language.sequence import IMAGE, REGION
from mmcore.language.tokens import encoder_of, load_tokenizer, tokenize
from safetensors.numpy import load_file

from .test_conversation import GRIFFON
from .tiny_tokenizers import byte_tokenizer

GLAMM_TOKENS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")
GOLDEN = [
    "visper/data_conversations/tokenizer_llama3",
    "visper/data_conversations/tokenizer_phi3",
    "visper/data_conversations/tokenizer_phi3_fast",
    *(f"griffon/conv_{name}/tokenizer" for name in ("gemma", "llama", "llama3", "llama_legacy", "qwen2", "qwen25")),
]


def open_golden(shared: Path, name: str, **options: Any) -> Any:
    pytest.importorskip("sentencepiece")
    return load_tokenizer(shared / "goldens" / name, **options)


@pytest.mark.parametrize("name", ["gemma", "llama", "llama3", "llama_legacy", "qwen2", "qwen25"])
def test_griffon_prompts_have_the_published_ids(shared: Path, name: str) -> None:
    folder = shared / f"goldens/griffon/conv_{name}"
    case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
    tokenizer = open_golden(shared, f"griffon/conv_{name}/tokenizer", pad="unknown")
    if case["tokenizer"]["pad_token_id"] is not None:
        assert tokenizer.pad_token_id == case["tokenizer"]["pad_token_id"]
    for sample in case["samples"]:
        style = template(GRIFFON.get(sample["version"], sample["version"]))
        entries = [{"from": role, "value": text} for role, text in sample["turns"]]
        turns = normalise(entries, has_image=sample["has_image"], image=style.image)
        text = style.render((turns[0], Turn("assistant", "")))
        ids = tokenize(text, tokenizer, {"<image>": IMAGE, "<region>": IMAGE})
        np.testing.assert_array_equal(ids, stored[f"{sample['version']}.{sample['sample']}.generation_ids"])


def test_glamm_texts_have_the_published_ids(shared: Path) -> None:
    folder = shared / "goldens/glamm/tokenizer_main"
    case = json.loads((folder / "case.json").read_text())
    tokenizer = open_golden(
        shared, "glamm/tokenizer_main/tokenizer.model", pad="unknown", legacy=True, added=GLAMM_TOKENS
    )
    assert (len(tokenizer), tokenizer.pad_token_id) == (case["vocab_size"], case["pad_id"])
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in GLAMM_TOKENS} == case["added_tokens"]
    for entry in case["encode"]:
        assert tokenize(entry["text"], tokenizer, None).tolist() == entry["ids"], entry["text"]
    for entry in case["image_prompts"]:
        assert tokenize(entry["text"], tokenizer).tolist() == entry["ids"], entry["text"]


@pytest.mark.parametrize("name", GOLDEN)
def test_stretches_looked_up_give_the_ids_of_the_whole(shared: Path, name: str) -> None:
    check_stretches(open_golden(shared, name), seed=len(name))


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("bos", ["<s>", None])
def test_stretches_of_a_byte_tokenizer_give_the_ids_of_the_whole(swallow: bool, bos: str | None) -> None:
    check_stretches(byte_tokenizer(["<|end|>", "<|e|>"], bos=bos, swallow=swallow), seed=3)


def check_stretches(tokenizer: Any, seed: int) -> None:
    encoder = encoder_of(tokenizer)
    assert encoder._by_stretches
    draw = random.Random(seed)
    added = [*tokenizer.get_added_vocab()][:40]
    words = [*added, " ", "  ", "\n", "\t", "\xa0", "a", "The cat", " 12", "é", "猫", "▁", "<"]
    for _ in range(400):
        text = "".join(draw.choices(words, k=draw.randint(0, 12)))
        assert encoder._joined(text) == encoder._whole(text), repr(text)


def test_a_text_that_begins_with_a_space_keeps_the_dummy_prefix(shared: Path) -> None:
    tokenizer = open_golden(shared, "griffon/conv_llama/tokenizer")
    ids = tokenize(" here", tokenizer, None).tolist()
    assert tokenizer.convert_ids_to_tokens(ids)[1] == "▁"  # the prefix, and the space that was there
    assert len(ids) == len(tokenize("here", tokenizer, None)) + 1


def test_a_text_has_one_bos_however_many_pieces() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenize("a<image>b<region><image>", tokenizer, {"<image>": IMAGE, "<region>": REGION}).tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    assert [id_ for id_ in ids if id_ < 0] == [IMAGE, REGION, IMAGE]
    assert ids[0] == tokenizer.bos_token_id


def test_without_placeholders_the_marker_is_text() -> None:
    tokenizer = byte_tokenizer(bos=None)
    assert tokenizer.decode(tokenize("a<image>b", tokenizer, None)) == "a<image>b"


def test_tokens_added_later_are_seen() -> None:
    tokenizer = byte_tokenizer()
    before = tokenize("x[SEG]", tokenizer)
    tokenizer.add_tokens(["[SEG]"], special_tokens=True)
    after = tokenize("x[SEG]", tokenizer)
    assert len(before) == 7
    assert after.tolist()[-1] == tokenizer.convert_tokens_to_ids("[SEG]")


def test_a_tokenizer_may_travel_to_a_worker() -> None:
    tokenizer = byte_tokenizer(["<|end|>"])
    other = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(tokenize("a<|end|>b", other), tokenize("a<|end|>b", tokenizer))


def test_a_tokenizer_without_padding_gets_pad_as_its_last_id(tmp_path: Path) -> None:
    byte_tokenizer(["<|end|>"]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", len(tokenizer) - 1)


def test_a_tokenizer_without_the_templates_tokens_is_refused(tmp_path: Path) -> None:
    byte_tokenizer(["<|end|>", "<|user|>"]).save_pretrained(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_tokenizer(tmp_path, template=template("llava_phi_3"))
    message = str(caught.value)
    assert "lacks <|system|>, <|assistant|>, which the template llava_phi_3 is written in" in message
    assert str(tmp_path) in message
    assert "<|user|>" in message  # what it has


def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="there are no tokenizer files"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(WeightsError) as caught:
        load_tokenizer(tmp_path)
    assert "the tokenizer cannot be read" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
