"""Sample data and its tokenizer: the formats of the documentation, the same bytes every time, true answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmcore.data.demo.tiny_tokenizer import SIZE, SPECIAL, make_tokenizer
from mmcore_visper.config import VARIANTS
from mmcore_visper.data.demo import write_demo
from mmcore_visper.data.demo_scenes import COLOURS, KINDS, NUMBERS, caption, draw_scene, questions
from mmcore_visper.tokenizer import WORDS


def test_the_same_seed_gives_the_same_bytes_and_a_second_call_writes_nothing(tmp_path: Path) -> None:
    first, second = (write_demo(tmp_path / name, train=6, val=2) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    before = {name: (first / name).stat().st_mtime_ns for name in files}
    write_demo(first, train=6, val=2)
    assert before == {name: (first / name).stat().st_mtime_ns for name in files}


def test_held_back_pictures_are_in_no_training_file(tmp_path: Path) -> None:
    root = write_demo(tmp_path, train=30, val=4) / "visper"
    held_back = {json.loads(line)["image"] for line in (root / "questions_val.jsonl").read_text().splitlines()}
    trained = (root / "questions_train.json").read_text() + (root / "captions_train.json").read_text()
    assert held_back
    assert not any(name in trained for name in held_back)
    assert any("image" not in record for record in json.loads((root / "questions_train.json").read_text()))


@pytest.mark.parametrize("number", range(20))
def test_answers_are_true_of_their_scene(number: int) -> None:
    scene = draw_scene(3, number)
    by_kind = {shape.kind: shape for shape in scene.shapes}
    by_colour = {shape.colour: shape for shape in scene.shapes}
    assert len(by_colour) == len(scene.shapes) == len(by_kind)
    for asked in questions(scene, np.random.default_rng(number)):
        word = asked.text.rstrip("?").split()
        if asked.kind == "color":
            assert by_kind[word[-1]].colour == asked.answer
        elif asked.kind == "shape":
            assert by_kind[asked.answer].colour == word[-1]
        elif asked.kind == "presence":
            assert (word[3] in by_colour) == (asked.answer == "yes")
        elif asked.kind == "side":
            assert (by_colour[word[2]].x < 0.5) == (asked.answer == "left")
        else:
            assert asked.answer == NUMBERS[len(scene.shapes)]
    assert all(shape.kind in caption(scene) and shape.colour in caption(scene) for shape in scene.shapes)


def test_the_tiny_tokenizer_has_llama_3s_special_tokens_where_the_configuration_says() -> None:
    tokenizer = make_tokenizer(WORDS)
    language = VARIANTS["tiny"].language
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert tokenizer.pad_token_id == language["pad_token_id"]
    assert tokenizer.bos_token_id == language["bos_token_id"]
    assert tokenizer.eos_token_id == language["eos_token_id"]
    assert len(tokenizer) <= SIZE <= language["vocab_size"]


def test_words_of_the_sample_data_are_single_tokens() -> None:
    tokenizer = make_tokenizer(WORDS)
    for word in [*COLOURS, *KINDS, "yes", "no", "left", "right", *NUMBERS[1:]]:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
