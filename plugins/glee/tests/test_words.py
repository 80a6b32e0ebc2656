"""Names, expressions and token ids are those of the published model."""

import gzip
from importlib.resources import files

import pytest
import torch
from mmcore.errors import RecipeError
from mmcore_glee import vocabulary
from mmcore_glee.tokenizer import END_ID, START_ID, clip_tokenizer, token_ids, tokenise


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("person", [2533]),
        ("aerosol_can", [10196, 9941, 318, 753]),
        ("Table Tennis ", [2175, 5298]),
        ("", []),
        ("éclair au lait", [3459, 14039, 2566, 572, 585]),
    ],
)
def test_token_ids_are_clips(text, ids):
    assert token_ids(text) == (START_ID, *ids, END_ID)


def test_the_vocabulary_has_clips_size():
    assert len(clip_tokenizer()) == 49408
    assert clip_tokenizer().convert_tokens_to_ids("<|endoftext|>") == END_ID


def test_padding_is_the_end_token_and_masked():
    ids, mask = tokenise(["a", "a tall man"])
    assert ids.shape == mask.shape == (2, 5)
    assert ids[0, 3:].tolist() == [END_ID, END_ID]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert ids.dtype == mask.dtype == torch.int64


def test_padding_to_77_keeps_the_ids():
    short, _ = tokenise(["a", "a tall man"])
    long, mask = tokenise(["a", "a tall man"], 77)
    assert long.shape == (2, 77)
    assert torch.equal(long[:, :5], short)
    assert mask.sum() == 8


def test_a_long_text_is_cut_and_still_ends():
    ids = token_ids("word " * 200)
    assert len(ids) == 77
    assert ids[-1] == END_ID
    assert END_ID not in ids[:-1]


def test_no_texts_make_an_empty_tensor():
    ids, mask = tokenise([])
    assert ids.shape == mask.shape == (0, 0)


def test_the_licence_of_the_merges_comes_with_them():
    data = files("mmcore_glee").joinpath("data")
    assert "Copyright (c) 2021 OpenAI" in data.joinpath("CLIP_LICENSE").read_text()
    assert len(gzip.decompress(data.joinpath("clip_merges.txt.gz").read_bytes()).splitlines()) == 48894


@pytest.mark.parametrize(
    ("task", "count"), [("coco", 80), ("lvis", 1203), ("obj365", 365), ("openimage", 601), ("image_o", 25), ("sa1b", 1)]
)
def test_vocabularies_have_their_published_sizes(task, count):
    assert len(vocabulary.names(task)) == count


def test_names_are_verbatim():
    assert vocabulary.names("lvis")[0] == "aerosol_can"
    assert "Vehical" in vocabulary.names("ovis")
    assert vocabulary.names("uvo_video")[-1] == "object"


def test_an_unknown_vocabulary_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'lvis'"):
        vocabulary.names("lviss")


def test_negative_phrases_are_plenty_and_distinct():
    phrases = vocabulary.phrases()
    assert len(phrases) == len(set(phrases)) > 1000
    assert not any("_" in phrase for phrase in phrases)


def test_cleaning_drops_and_blanks_what_the_published_code_does():
    assert vocabulary.clean_expression("Left dog, on the 'grass'!") == "left dog on the grass"
    assert vocabulary.clean_expression("  two  spaces ") == "  two  spaces "


def test_sides_are_swapped_and_swapped_back():
    text = "left one, not the right: the leftmost upright"
    assert vocabulary.swap_sides(text) == "right one, not the left: the rightmost upleft"
    assert vocabulary.swap_sides(vocabulary.swap_sides(text)) == text
