"""What a user gets wrong with conversations, from the command line to the message and the exit code; no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmcore.contract.protocols import DataContext
from mmcore_visper.data import build
from mmcore_visper.data.demo import write_demo
from mmcore_visper.recipes import TINY_PT

Run = Callable[..., tuple[int, str]]
BASE = ["--plugin", "visper", "--stage", "ift", "--variant", "tiny", "--sources", "questions"]
TRAIN = ["train", *BASE, "--workers", "0", "--init", "random", "--max-steps", "1", "--set", "validation={}"]
TRAIN += ["--set", "best_metric=null", "--set", "global_batch=2", "--set", "micro_batch=2"]
STRICT = ["--set", "data.bad_samples=error"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of sample pictures."""
    return write_demo(tmp_path_factory.mktemp("scenes"), train=16, val=2)


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """A copy of them to damage."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def questions(root: Path) -> Path:
    """The training conversations."""
    return root / "visper" / "questions_train.json"


def change(root: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """Rewrite the training conversations."""
    content = json.loads(questions(root).read_text())
    edit(content)
    questions(root).write_text(json.dumps(content))


def all_turns(content: list[dict[str, Any]], turns: list[dict[str, str]]) -> None:
    for record in content:
        record["conversations"] = [dict(turn) for turn in turns]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "iff"], ["visper has no stage iff", "1 pt, 2 ift"]),
        (["--stage", "ift", "--set", "model.templat=x"], ["no model setting 'templat'", "did you mean 'template'?"]),
        (["--stage", "ift", "--set", "model.tasks=[dept]"], ["unknown task 'dept'"]),
        (["--stage", "ift", "--sources", "question"], ["no data source 'question'", "'questions'"]),
    ],
)
def test_a_wrong_name_is_wrong_usage_and_answered_with_the_nearest(
    run: Run, root: Path, arguments: list[str], words: list[str]
) -> None:
    code, said = run("train", "--plugin", "visper", "--variant", "tiny", "--data", root, "--init", "random", *arguments)
    assert code == 2
    assert all(word in said for word in words), said


def test_an_unknown_template_is_answered_with_the_nearest(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, "--data", root, "--set", "model.template=llava_lama_3")
    assert code == 2
    assert "no conversation template 'llava_lama_3'" in said
    assert "did you mean 'llava_llama_3'?" in said


def test_a_tokenizer_without_the_templates_tokens_is_refused(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, "--data", root, "--set", "model.template=llava_phi_3")
    assert code == 2
    assert "the tokenizer lacks" in said
    assert "<|user|>" in said


def test_a_missing_annotation_file_is_named(run: Run, root: Path) -> None:
    questions(root).unlink()
    code, said = run(*TRAIN, "--data", root)
    assert code == 1
    assert "MissingDataError" in said
    assert "questions_train.json" in said


def test_a_missing_image_stops_a_strict_run_with_file_and_record(run: Run, root: Path) -> None:
    shutil.rmtree(root / "visper" / "images")
    (root / "visper" / "images").mkdir()
    code, said = run(*TRAIN, *STRICT, "--data", root)
    assert code == 1
    assert "image is missing" in said
    assert "questions_train.json, record" in said
    assert ".jpg" in said


def test_missing_images_are_replaced_counted_and_listed(run: Run, root: Path, tmp_path: Path) -> None:
    for path in sorted((root / "visper" / "images").glob("0*.jpg"))[::2]:
        path.unlink()
    code, said = run(*TRAIN, "--data", root, "--max-steps", "4", "--out", "one")
    assert code == 0, said
    assert "samples that could not be used and were replaced: questions" in said
    assert "image is missing" in (tmp_path / "one" / "bad_samples.jsonl").read_text()


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"from": "gpt", "value": "red"}], "no human turn"),
        (
            [{"from": "human", "value": "<image>\na"}, {"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}],
            "do not alternate",
        ),
        ([{"from": "robot", "value": "<image>\na"}, {"from": "gpt", "value": "c"}], "unknown speaker 'robot'"),
        ([{"from": "human", "value": "<image>\na"}], "no answer"),
    ],
)
def test_a_conversation_in_the_wrong_order_is_named_with_its_record(
    run: Run, root: Path, turns: list[dict[str, str]], message: str
) -> None:
    change(root, lambda content: all_turns(content, turns))
    code, said = run(*TRAIN, *STRICT, "--data", root)
    assert code == 1
    assert message in said
    assert "questions_train.json, record" in said


def test_the_check_lists_every_bad_record_with_file_and_record(run: Run, root: Path) -> None:
    def damage(content: list[dict[str, Any]]) -> None:
        content[0]["conversations"] = [{"from": "gpt", "value": "red"}]
        content[1]["conversations"] = content[1]["conversations"][::-1]
        content[2]["image"] = "../../etc/passwd"
        content[3]["image"] = "nowhere.jpg"

    change(root, damage)
    code, said = run("data", "check", *BASE, "--data", root, "--split", "train", "--workers", "0")
    assert code == 1
    for number, message in enumerate(("no human turn", "conversation", "climbs out", "image is missing")):
        assert f"record {number} " in said, said
        assert message in said
    assert "4 problems" in said


def test_a_long_conversation_is_cut_and_counted(run: Run, root: Path) -> None:
    def lengthen(content: list[dict[str, Any]]) -> None:
        for record in content:
            record["conversations"] += [{"from": "human", "value": "and?"}, {"from": "gpt", "value": "red " * 400}]

    change(root, lengthen)
    code, said = run(*TRAIN, "--data", root)
    assert code == 0, said
    assert "samples cut at max_length by this process: 2" in said


def test_a_conversation_of_which_nothing_would_be_learned_is_never_trained_on_in_silence(run: Run, root: Path) -> None:
    turns = [{"from": "human", "value": "<image>\n" + "long " * 600}, {"from": "gpt", "value": "red"}]
    change(root, lambda content: all_turns(content, turns))
    code, said = run(*TRAIN, *STRICT, "--data", root)
    assert code == 1
    assert "no answer lies within the maximum length" in said
    assert "questions_train.json, record" in said
    assert "max_length" in said


def test_an_image_that_does_not_fit_the_maximum_length_is_told(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, *STRICT, "--data", root, "--set", "max_length=70")
    assert code == 1
    assert "does not fit a maximum length of 70" in said


def test_a_source_with_an_unknown_option_is_answered_with_the_nearest(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, "--data", root, "--set", 'data.sources.questions.options={"sufix": "x"}')
    assert code == 2
    assert "did you mean 'suffix'?" in said


def test_a_format_that_cannot_be_read_names_those_that_can(run: Run, root: Path) -> None:
    code, said = run(*TRAIN, "--data", root, "--set", "data.sources.questions.format=LAVA JSON")
    assert code == 1
    assert "'LAVA JSON' is not known" in said
    assert "did you mean 'LLaVA JSON'?" in said


def test_a_question_file_without_answers_names_the_record(run: Run, root: Path) -> None:
    path = root / "visper" / "questions_val.jsonl"
    path.write_text('{"question_id": 1, "image": "500000.jpg", "text": "What?"}\n')
    code, said = run("data", "check", *BASE, "--data", root, "--split", "val", "--workers", "0")
    assert code == 1
    assert "no answer to compare with" in said
    assert "questions_val.jsonl, record 0" in said


def test_names_are_refused_where_a_question_is_wanted(run: Run, root: Path) -> None:
    assert run(*TRAIN, "--data", root, "--out", "one")[0] == 0
    picture = next((root / "visper" / "images").glob("*.jpg"))
    code, said = run("predict", "one", picture, "--names", "circle")
    assert code == 2
    assert "use --prompt" in said


def test_the_wording_of_questions_is_replaced_by_a_file_or_refused(root: Path, tmp_path: Path, run: Run) -> None:
    (root / "mine.yaml").write_text("captions: ['What, pray, is this?']")
    stage = TINY_PT.replace(data=TINY_PT.data.replace(templates="mine.yaml"))
    data = build(stage, "train", DataContext(root=root, cache=tmp_path / "cache", variant="tiny", seed=0))
    assert data.wordings == {"captions": ("What, pray, is this?",)}
    said = {data.sources["coco_captions"].records[n].turns()[0].text for n in range(4)}
    assert {text.replace("<image>", "").strip() for text in said} == {"What, pray, is this?"}
    code, said = run(*TRAIN, "--data", root, "--set", "data.templates=mine.yaml")
    assert code == 2
    assert "nothing can be replaced" in said
    code, said = run(*TRAIN, "--data", root, "--stage", "pt", "--sources", "coco_captions", "--set", "data.templates=x")
    assert code == 1
    assert "data.templates needs x, which is not there" in said
