"""LLaVA files: records by position, lengths, and every way in which a record can be wrong."""

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mmcore.contract.protocols import DataSource
from mmcore.data.check import check_annotations
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.formats.registry import Formats
from mmcore.data.records import told_left_out
from mmcore.errors import DataError, MissingDataError, UnsafeDataError
from mmcore.language.conversation import Turn
from mmcore.language.conversation_templates import template
from PIL import Image

PICTURE = {
    "id": "a",
    "image": "sub/1.png",
    "conversations": [
        {"from": "human", "value": "What is this <image>"},
        {"from": "gpt", "value": "Un perro — 狗."},
    ],
}
TEXT = {
    "id": 7,
    "conversations": [
        {"from": "gpt", "value": "Hello there."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "So."},
    ],
}


def says(*pairs: tuple[Any, Any], **fields: Any) -> dict[str, Any]:
    return {"id": 1, **fields, "conversations": [{"from": role, "value": text} for role, text in pairs]}


def opened(folder: Path, records: list[Any], name: str = "data.json") -> LlavaIndex:
    lines = "jsonl" in name
    as_it_is = [json.dumps(record, ensure_ascii=False) for record in records]
    text = "\n".join(as_it_is) + "\n" if lines else json.dumps(records)
    (folder / name).write_text(text)
    return LlavaIndex.open(folder / name, folder / "cache")


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_records_come_by_position_with_turns_in_order(tmp_path: Path, name: str) -> None:
    index = pickle.loads(pickle.dumps(opened(tmp_path, [PICTURE, TEXT], name)))
    assert len(index) == 2
    assert (index[0].id, index[0].image, index[1].id, index[1].image) == ("a", "sub/1.png", 7, None)
    assert index[0].turns() == (Turn("user", "<image>\nWhat is this"), Turn("assistant", "Un perro — 狗."))
    assert index[1].turns() == (Turn("user", "Why?"), Turn("assistant", "So."))
    assert len(index[1].turns(template("llava_v0"))) == 3


def test_lengths_count_words_of_all_turns_and_are_negative_without_an_image(tmp_path: Path) -> None:
    assert opened(tmp_path, [PICTURE, TEXT]).lengths().tolist() == [8, -4]


def test_another_content_is_another_index(tmp_path: Path) -> None:
    first = opened(tmp_path, [PICTURE]).fingerprint
    assert opened(tmp_path, [TEXT]).fingerprint != first


SPELLINGS = {
    "Alpaca": {"instruction": "What is it?", "input": "", "output": "A cup."},
    "Alpaca, with an input": {"instruction": "What", "input": "is it?", "output": "A cup."},
    "query/response": {"query": "<image>What is it?", "response": "A cup."},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_question_a_record_is_a_conversation(tmp_path: Path, spelling: str) -> None:
    more = {"images": ["a.jpg"], "system": "Be brief.", "history": [["Hello", "Hi"]]}
    index = opened(tmp_path, [{**SPELLINGS[spelling], **more}, SPELLINGS["Alpaca"]])
    assert Formats.of().recognise(tmp_path / "data.json").name == spelling.partition(",")[0]
    [hello, hi, asked, said] = index[0].turns()
    assert (index[0].image, hi.text, said.text) == ("a.jpg", "Hi", "A cup.")
    marked = "<image>\n"
    shown = hello if "query" not in SPELLINGS[spelling] else asked
    assert shown.text.startswith(marked)
    assert " ".join(asked.text.removeprefix(marked).split()) == "What is it?"
    assert [turn.text for turn in index[1].turns()] == ["What is it?", "A cup."]


def test_records_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    two = says(("human", "<image>"), ("gpt", "Ho"), images=["a.jpg", "b.jpg"])
    index = opened(tmp_path, [PICTURE, two, two, {"query": "<img>a.jpg</img>What?", "response": "Ho"}, TEXT])
    assert list(index.left_out().values()) == [2, 1]
    [told] = [told_left_out("chats", cast(DataSource, SimpleNamespace(annotations=lambda: index)))]
    assert told == (
        "chats: 2 x the record names 2 images; one is read, 1 x the question names a "
        "picture as <img>file</img>; `mmcore data check` lists them"
    )
    with pytest.raises(DataError) as caught:
        index[1]
    assert caught.value.do == "leave one, make a record of each, or join them side by side in one file"


WRONG = [
    ({"query": "Hi", "response": "Ho", "history": ["Hi"]}, "is no list of pairs", "field history"),
    (says(("gpt", "Hi")), "the conversation has no human turn", "field conversations"),
    (says(("human", "Hi"), ("human", "Ho")), "'human' speaks twice in a row", "turns 0 and 1"),
    (says(("human", "Hi"), ("robot", "Ho")), "unknown speaker 'robot'", "turn 1"),
    (says(("human", "Hi"), ("gpt", None)), "has no text 'from' and 'value'", "turn 1"),
    (says(("human", "Hi"), ("gpt", "")), "the conversation has no answer", "field conversations"),
    (says(("human", "Hi"), ("gpt", "\ud83d")), "half of a surrogate pair", "field conversations"),
    (says(("human", "Hi"), ("gpt", "Ho"), image="a.jpg"), "names an image, but no turn has <image>", "conversations"),
    (
        says(("human", "<image>"), ("gpt", "Ho"), ("human", "<image>"), ("gpt", "Ho"), image="a.jpg"),
        "names an image, but 2 turns have <image>",
        "field conversations",
    ),
    (says(("human", "<image>"), ("gpt", "Ho"), image="../a.jpg"), "climbs out of its folder", "field image"),
    (says(("human", "<image>"), ("gpt", "Ho"), image=3), "is not text", "field image"),
    (says(("human", "<image>"), ("gpt", "Ho"), images=["a.jpg", "b.jpg"]), "names 2 images", "field images"),
    (says(("human", "<image>"), ("gpt", "Ho")), "has <image>, but the record names no image", "field image"),
    (says(("human", "Hi"), ("gpt", "<image>"), image="a.jpg"), "an answer has <image>", "field conversations"),
    (
        says(("human", "Hi"), ("gpt", "Ho"), ("human", "So?"), ("gpt", " "), ("human", "?"), ("gpt", "So.")),
        "answer 2 of the conversation is empty",
        "field conversations",
    ),
    (says(("human", "Hi"), ("gpt", " \n")), "the conversation has no answer", "field conversations"),
    (says(("human", "<ref-object>?"), ("gpt", "Ho")), "but the record has no objects", "field objects"),
    (says(("human", "Hi"), ("gpt", "<bbox>"), objects={"bbox": [[1, 2]]}), "1 <bbox> in the text", "objects.bbox"),
    (
        says(("human", "Hi"), ("gpt", "<bbox>"), objects={"bbox": [], "bbox_type": "pixels"}),
        "bbox_type 'pixels' is not known",
        "objects.bbox_type",
    ),
    ({"id": 1, "image": "a.jpg"}, "has no list of turns", "field conversations"),
    (17, "the record is a int, not an object", "the whole record"),
]


@pytest.mark.parametrize(("record", "what", "where"), WRONG)
def test_a_bad_record_keeps_its_place_and_names_file_record_and_field(
    tmp_path: Path, record: Any, what: str, where: str
) -> None:
    index = opened(tmp_path, [PICTURE, record, TEXT])
    assert index[2].id == 7
    with pytest.raises(DataError) as caught:
        index[1]
    assert what in str(caught.value)
    assert f"{tmp_path / 'data.json'}, record 1" in str(caught.value.where)
    assert where in str(caught.value.where)
    assert (index.unusable(0), index.unusable(1)) == (False, True)
    assert index.lengths()[1] != 0  # it still has a place among those of its length


def test_a_bad_line_of_a_line_file_is_one_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(PICTURE).encode() + b'\n\n{"id": 3,\n\xff\n' + json.dumps(TEXT).encode())
    index = LlavaIndex.open(path, tmp_path / "cache")
    assert [index.unusable(position) for position in range(len(index))] == [False, True, True, False]
    assert [error.what.split(":")[0] for error in index.problems()] == ["not valid JSON", "not valid JSON"]


def test_data_check_lists_all_bad_records(tmp_path: Path) -> None:
    class Source(DataSource):
        def annotations(self) -> LlavaIndex:
            return opened(tmp_path, [PICTURE, *(record for record, _, _ in WRONG)])

    problems = list(check_annotations("chat", Source()))
    assert len(problems) == len(WRONG)
    assert all(problem.source == "chat" and "record" in problem.where for problem in problems)


def test_a_missing_image_is_named_with_its_record(tmp_path: Path) -> None:
    record = opened(tmp_path, [PICTURE])[0]
    with pytest.raises(MissingDataError) as caught:
        record.read_image(tmp_path)
    message = str(caught.value)
    assert "image is missing" in message
    assert "record 0 (id a)" in message
    assert str(tmp_path / "sub/1.png") in message


def test_an_image_is_read_below_its_folder_and_not_outside(tmp_path: Path) -> None:
    record = opened(tmp_path, [PICTURE])[0]
    (tmp_path / "pictures/sub").mkdir(parents=True)
    Image.new("L", (5, 3), 200).save(tmp_path / "pictures/sub/1.png")
    assert record.read_image(tmp_path / "pictures").shape == (3, 5, 3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sub").symlink_to(tmp_path / "pictures/sub")
    with pytest.raises(UnsafeDataError):
        record.read_image(tmp_path / "other")


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingDataError, match=name):
        LlavaIndex.open(tmp_path / name, tmp_path / "cache")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match="not a list of conversations"):
        LlavaIndex.open(tmp_path / "instances.json", tmp_path / "cache")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="has no conversations"):
        LlavaIndex.open(tmp_path / "empty.json", tmp_path / "cache")


def test_a_reader_keeps_nothing_of_what_it_read(tmp_path: Path) -> None:
    index = opened(tmp_path, [PICTURE] * 50)
    index[0]
    before = sorted(vars(index.index))
    kept = {name: sys.getsizeof(value) for name, value in vars(index.index).items()}
    for position in range(50):
        index[position]
    assert sorted(vars(index.index)) == before
    assert {name: sys.getsizeof(value) for name, value in vars(index.index).items()} == kept
    assert set(vars(index)) == {"index"}


def test_published_lengths(shared: Path, tmp_path: Path) -> None:
    folder = shared / "goldens/visper/data_ift_phi3_vit"
    case = json.loads((folder / "case.json").read_text())
    index = LlavaIndex.open(folder / "data.json", tmp_path)
    np.testing.assert_array_equal(index.lengths(), case["outputs"]["modality_lengths"])
