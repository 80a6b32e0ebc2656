"""Tokens for an image and the vectors after it: reserved ones, free rows, or new rows."""

from typing import Any

import pytest
from mmcore.data.demo.tiny_tokenizer import make_tokenizer
from mmcore.errors import WeightsError
from mmcore.language.llava.placement import place

WORDS = len(make_tokenizer())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Some hundred tokens, 32 of them reserved."""
    return make_tokenizer()


def test_the_last_reserved_tokens_are_taken_and_nothing_is_added(tokenizer):
    placement = place(tokenizer, 24, 1024)
    assert placement.image == "<|reserved_special_token_31|>"
    assert placement.after == tuple(f"<|reserved_special_token_{i}|>" for i in range(7, 31))
    assert list(placement.after_ids) == tokenizer.convert_tokens_to_ids(list(placement.after))
    assert placement.rows == 1024
    assert len(placement.tokenizer) == len(tokenizer) == WORDS


def test_rows_without_a_word_and_placeholders_are_suppressed(tokenizer):
    placement = place(tokenizer, 24, 1024)
    taken = (*placement.after_ids, placement.image_id)
    assert placement.suppressed == (*taken, *range(WORDS, 1024))
    assert place(tokenizer, 24, WORDS).suppressed == taken


def test_new_tokens_take_free_rows_when_too_few_are_reserved(tokenizer):
    placement = place(tokenizer, 40, 1024)
    assert placement.after_ids == tuple(range(WORDS, WORDS + 40))
    assert (placement.image, placement.image_id) == ("<image>", WORDS + 40)
    assert placement.rows == 1024
    assert placement.suppressed == tuple(range(WORDS, 1024))


def test_rows_grow_when_none_are_free(tokenizer):
    placement = place(tokenizer, 40, WORDS + 4)
    assert placement.rows == WORDS + 41
    assert placement.suppressed == tuple(range(WORDS, WORDS + 41))


def test_the_given_tokenizer_is_left_as_it_is(tokenizer):
    place(tokenizer, 40, 1024)
    assert len(tokenizer) == WORDS
    assert "<image>" not in tokenizer.get_vocab()


def test_plain_llava_needs_the_image_only(tokenizer):
    placement = place(tokenizer, 0, 1024)
    assert placement.after == ()
    assert placement.image == "<|reserved_special_token_31|>"


def test_every_token_is_one_id_in_any_surrounding(tokenizer):
    for count in (24, 40):
        placement = place(tokenizer, count, 1024)
        ids = placement.tokenizer("a" + placement.image + "".join(placement.after) + "b", add_special_tokens=False)
        assert ids["input_ids"][1:-1] == [placement.image_id, *placement.after_ids]


def test_a_tokenizer_larger_than_the_model_is_refused(tokenizer):
    with pytest.raises(WeightsError, match=f"{WORDS} tokens, the model 700 rows"):
        place(tokenizer, 24, 700)
