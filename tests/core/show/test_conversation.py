"""Pictures of conversations: every token is there, the learned ones can be told, nothing runs out of the picture."""

import numpy as np
import pytest
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.language.splice import lay_out
from mmcore.show.conversation import LEARNED, Token, as_picture, draw_answer, draw_conversation, draw_tokens, tokens_of
from PIL import Image


def filled(picture: Image.Image, colour: tuple[int, int, int] = LEARNED) -> int:
    """Pixels of one colour."""
    return int(np.all(np.asarray(picture) == colour, -1).sum())


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_are_those_of_the_sample_and_features_are_counted(side: str) -> None:
    first = Encoded(np.array([1, IMAGE, 5, 6]), np.array([IGNORE, IGNORE, IGNORE, 6]))
    second = Encoded(np.array([1, 7]), np.array([IGNORE, 7]))
    sequences = lay_out([first, second], {IMAGE: (("image", 4), ("gen", 2))}, padding_side=side)  # type: ignore[arg-type]
    assert tokens_of(sequences, 0, str) == [
        Token("1"),
        Token("image x4", feature=True),
        Token("gen x2", feature=True),
        Token("5"),
        Token("6", learned=True),
    ]
    assert tokens_of(sequences, 1, str) == [Token("1"), Token("7", learned=True)]


def test_tokens_of_a_packed_row_are_those_of_one_sample() -> None:
    samples = [Encoded(np.array([1, 2, 3]), np.array([IGNORE, 2, 3])), Encoded(np.array([4, 5]), np.array([IGNORE, 5]))]
    sequences = lay_out(samples, {}, pack_to=8)
    assert [token.text for token in tokens_of(sequences, 1, str)] == ["4", "5"]


def test_blanks_and_line_ends_can_be_seen() -> None:
    sequences = lay_out([Encoded(np.array([1, 2]), np.array([IGNORE, IGNORE]))], {})
    texts = {1: "\n\n", 2: " red"}
    assert [token.text for token in tokens_of(sequences, 0, texts.__getitem__)] == ["\\n\\n", "_red"]


def test_learned_tokens_are_filled_and_others_are_not() -> None:
    plain = draw_tokens([Token("red"), Token("blue")], 300)
    marked = draw_tokens([Token("red", learned=True), Token("blue")], 300)
    assert filled(plain) == 0
    assert filled(marked) > 100


def test_a_long_strip_breaks_into_lines_of_the_width() -> None:
    short, long = draw_tokens([Token("word")] * 3, 200), draw_tokens([Token("word")] * 60, 200)
    assert short.width == long.width == 200
    assert long.height > 5 * short.height / 2


def test_a_sample_without_a_picture_is_drawn_too() -> None:
    tokens = [Token("a"), Token("b", learned=True)]
    without = draw_conversation(None, tokens, "source record 3")
    with_one = draw_conversation(Image.new("RGB", (8, 4), (200, 10, 10)), tokens, "source record 3")
    assert with_one.height - without.height == with_one.width // 2


def test_an_answer_stands_beside_its_picture() -> None:
    picture = Image.new("RGB", (40, 20), (200, 10, 10))
    drawn = draw_answer(picture, "What color is it?", "red")
    assert np.asarray(drawn)[10, 10].tolist() == [200, 10, 10]
    assert 100 < filled(drawn) < 300  # a bar beside the answer, not behind it
    assert drawn.width > 512


def test_a_long_answer_makes_the_picture_longer_and_is_not_cut() -> None:
    picture = Image.new("L", (30, 10))
    short, long = draw_answer(picture, "q", "word"), draw_answer(picture, "q", "word " * 300)
    assert long.height > 2 * short.height
    assert draw_answer(picture, "", "").size == short.size


def test_normalising_is_undone() -> None:
    rgb = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) * 9
    mean, std = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
    pixels = (rgb / 255 - mean) / std
    assert np.array_equal(np.asarray(as_picture(pixels.transpose(2, 0, 1), mean, std)), rgb)
