"""Tokenizers are found where they lie, and kept so that others read text as training did."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.data.demo.tiny_tokenizer import SPECIAL, make_tokenizer, write_tokenizer
from mmcore.errors import RecipeError
from mmcore.language.conversation_templates import template
from mmcore.language.tokenizer_files import (
    copy_tokenizer,
    find_tokenizer,
    keep_tokenizer,
    open_tokenizer,
    save_tokenizer,
)
from mmcore.language.tokens import load_tokenizer, tokenize


def test_a_tokenizer_is_looked_for_beside_the_run_then_below_the_data_root_then_on_the_hub(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    made = {"tiny": lambda: write_tokenizer(tmp_path / "cache", "tiny", "", 1)}
    assert find_tokenizer("owner/words", [run, data], made) == "owner/words"
    assert find_tokenizer("tiny", [run, data], made) == str(tmp_path / "cache" / "tokenizers" / "tiny")
    for place in (data / "weights" / "words", run / "tokenizer"):
        place.mkdir(parents=True)
        (place / "tokenizer.json").write_text("{}")
        assert find_tokenizer("owner/words", [run, data], made) == str(place)


def test_a_tokenizer_without_the_templates_tokens_is_refused(tmp_path):
    made = {"tiny": lambda: write_tokenizer(tmp_path, "tiny", "", 1)}
    assert len(open_tokenizer("tiny", template("llava_llama_3"), made=made)) > len(SPECIAL)
    with pytest.raises(RecipeError, match="the template qwen2 is written in"):
        open_tokenizer("tiny", template("qwen2"), made=made)


def test_the_tiny_tokenizer_is_the_same_at_every_call_and_any_text_survives():
    tokenizer = make_tokenizer("zebra circle")
    assert tokenizer.get_vocab() == make_tokenizer("zebra circle").get_vocab() != make_tokenizer().get_vocab()
    assert len(tokenizer(" circle", add_special_tokens=False).input_ids) == 1
    text = "Ein Zebra, 42 Stück — naïve 画像\n\nend"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_saved_tokenizer_reads_text_as_before(shared, tmp_path):
    tokenizer = load_tokenizer(shared / "goldens/visper/data_conversations/tokenizer_phi3")
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    for text in ("<|user|>\nhello there<|end|>\n x", " a b", "<image>\nWhat?", "hi<|end|> there"):
        assert tokenize(text, again).tolist() == tokenize(text, tokenizer).tolist()


def test_merges_are_written_in_the_form_that_old_tokenizers_read(tmp_path):
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert merges
    assert all(isinstance(pair, str) and pair.count(" ") == 1 for pair in merges)
    text = "What color is the cat? 12\n\nnone"
    assert load_tokenizer(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_an_unchanged_tokenizer_is_copied_and_one_that_grew_is_written_anew(tmp_path):
    source = _made(tmp_path / "source")
    save_tokenizer(make_tokenizer(), source)
    copy_tokenizer(load_tokenizer(source), _made(tmp_path / "same"))
    for path in source.glob("tokenizer*"):
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
    grown = load_tokenizer(source, added=("[SEG]",))
    copy_tokenizer(grown, _made(tmp_path / "grown"))
    assert load_tokenizer(tmp_path / "grown").get_vocab() == grown.get_vocab()


def _made(folder):
    folder.mkdir(parents=True)
    return folder


TEXTS = ("<|user|>\nhello there<|end|>\n x", " a b", "<image>\nWhat?", "hi<|end|> there")


def assert_version_4_reads(folder: Path, tokenizer: Any) -> None:
    """Transformers 4.41 knows no class of version 5, and its tokenizers no merges but text."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] in ("PreTrainedTokenizerFast", "LlamaTokenizer")
    if (path := folder / "tokenizer.json").exists():
        merges = json.loads(path.read_text())["model"].get("merges", [])
        assert all(isinstance(pair, str) or " " in "".join(pair) for pair in merges)
    again = load_tokenizer(folder)
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS:
        assert tokenize(text, again).tolist() == tokenize(text, tokenizer).tolist()


@pytest.mark.parametrize("name", ["tokenizer_llama3", "tokenizer_phi3", "tokenizer_phi3_fast"])
def test_a_published_tokenizer_survives_a_run_folder(name, shared, tmp_path):
    source = shared / "goldens/visper/data_conversations" / name
    tokenizer = load_tokenizer(source)
    keep_tokenizer(tokenizer, tmp_path / "run")
    keep_tokenizer(load_tokenizer(tmp_path / "run"), tmp_path / "run")  # a resume writes into the same place
    copy_tokenizer(load_tokenizer(tmp_path / "run"), _made(tmp_path / "export"))
    assert_version_4_reads(tmp_path / "export", tokenizer)
    if name != "tokenizer_llama3":  # which gets a padding token
        for path in source.iterdir():
            assert (tmp_path / "export" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_tokenizer_that_version_5_wrote_is_repaired_at_every_export(tmp_path):
    make_tokenizer("zebra").save_pretrained(tmp_path / "run")
    written = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "TokenizersBackend", "nothing to repair any more?"
    tokenizer = load_tokenizer(tmp_path / "run")
    copy_tokenizer(tokenizer, _made(tmp_path / "export"))
    assert_version_4_reads(tmp_path / "export", tokenizer)
    assert json.loads((tmp_path / "run" / "tokenizer_config.json").read_text()) == written


def test_a_folder_that_a_user_named_comes_before_what_lies_below_the_data_root(tmp_path):
    for place in (tmp_path / "mine" / "words", tmp_path / "data" / "weights" / "words"):
        place.mkdir(parents=True)
        (place / "tokenizer.json").write_text("{}")
    named = str(tmp_path / "mine" / "words")
    assert find_tokenizer(named, [tmp_path / "run", tmp_path / "data"]) == named
    _made(tmp_path / "run" / "tokenizer")
    (tmp_path / "run" / "tokenizer" / "tokenizer.json").write_text("{}")
    assert find_tokenizer(named, [tmp_path / "run", tmp_path / "data"]) == str(tmp_path / "run" / "tokenizer")
