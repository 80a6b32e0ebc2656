"""Question files and answers: what is read, how answers are compared, what blind guessing would reach."""

import json
from pathlib import Path

import pytest
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.questions import Question, read_questions
from mmcore.errors import DataError, MissingDataError
from mmcore.evaluate.vqa import AnswerEvaluator, blind_answers, normalise_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("The two dogs.", "2 dogs"),
        ("dont know", "don't know"),
        ("1,000", "1000"),
        ("A red, round ball!", "red round ball"),
        ("none", "0"),
        ("3.5", "3.5"),
        ("its shed", "its shed"),
        ("\tYes\n", "yes"),
        ("", ""),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(given: str, expected: str) -> None:
    assert normalise_answer(given) == expected


def test_accuracy_is_the_mean_over_all_sets_that_leave_one_person_out() -> None:
    assert vqa_accuracy("yes", ["yes"] * 10) == 1.0
    assert vqa_accuracy("yes", ["yes"] * 2 + ["no"] * 8) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert vqa_accuracy("maybe", ["yes"] * 10) == 0.0


def test_one_answer_is_right_or_wrong() -> None:
    assert vqa_accuracy("Red.", ["red"]) == 1.0
    assert vqa_accuracy("dark red", ["red"]) == 0.0


def test_questions_are_read_from_lists_lines_and_objects_under_their_usual_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question_id": 7, "image": "x.jpg", "text": "What?", "answer": "red"}\n\n')
    (tmp_path / "b.json").write_text(json.dumps([{"id": "k", "question": "Why?", "answers": ["a", "b"], "task": "t"}]))
    (tmp_path / "c.json").write_text(json.dumps({"questions": [{"prompt": "How?", "gt": "so", "filename": "y.png"}]}))
    assert read_questions(tmp_path / "a.jsonl") == (Question(7, "What?", "x.jpg", ("red",), {}),)
    assert read_questions(tmp_path / "b.json") == (Question("k", "Why?", None, ("a", "b"), {"task": "t"}),)
    assert read_questions(tmp_path / "c.json") == (Question(0, "How?", "y.png", ("so",), {}),)


def test_answers_of_several_people_are_read_in_the_form_of_vqa(tmp_path: Path) -> None:
    people = [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]
    (tmp_path / "q.json").write_text(json.dumps([{"question": "Is it?", "answers": people}]))
    assert read_questions(tmp_path / "q.json")[0].answers == ("yes", "no")


def test_questions_that_share_an_id_are_told_apart(tmp_path: Path) -> None:
    line = '{"question_id": "a.png", "question": "Is it?", "answer": "Yes"}\n'
    (tmp_path / "q.jsonl").write_text(line * 2)
    found = read_questions(tmp_path / "q.jsonl")
    assert len({question.id for question in found}) == 2
    assert [question.facts["question_id"] for question in found] == ["a.png", "a.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", "not valid JSON"),
        ("{}", "neither a list"),
        ("[]", "no questions"),
        ("[3]", "not an object"),
        ('[{"answer": "x"}]', "no question"),
        ('[{"text": "x"}]', "no answer"),
        ('[{"text": "x", "answer": "y", "image": 3}]', "not a file name"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_questions(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="question file is missing"):
        read_questions(tmp_path / "nowhere.jsonl")


QUESTIONS = (
    Question(0, "What color?", "a.jpg", ("red",), {"category": "color"}),
    Question(1, "What color?", "b.jpg", ("blue",), {"category": "color"}),
    Question(2, "How many?", "c.jpg", ("two",), {"category": "count"}),
)


def evaluated(answers: dict[int, str]) -> AnswerEvaluator:
    """An evaluator that has heard these answers."""
    blind, commonest = blind_answers([("What color?", "red"), ("What color?", "red"), ("What color?", "blue")])
    evaluator = AnswerEvaluator(QUESTIONS, blind, commonest)
    batch = Batch("val", (), {})
    evaluator.update(batch, [Prediction(image_id=id_, size=(1, 1), text=text) for id_, text in answers.items()])
    return evaluator


def test_accuracy_stands_beside_what_guessing_blindly_reaches() -> None:
    evaluator = evaluated({0: "Red.", 1: "red", 2: "2"})
    metrics = evaluator.summarise(evaluator.state())
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["chance"] == pytest.approx(1 / 3)
    assert metrics["accuracy/color"] == 0.5
    assert metrics["accuracy/count"] == 1.0


def test_a_question_that_two_processes_answered_counts_once() -> None:
    evaluator = evaluated({0: "red", 1: "blue"})
    twice = [*evaluator.state(), *evaluator.state()]
    assert evaluator.summarise(twice)["accuracy"] == 1.0
    assert len(evaluator.results(twice)) == 2


def test_the_answers_file_has_the_entries_of_sample_logs(tmp_path: Path) -> None:
    evaluator = evaluated({0: "Red.", 2: "three"})
    evaluator.write(evaluator.state(), tmp_path)
    first, second = (json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert (first["target"], first["resps"], first["filtered_resps"], first["score"]) == ("red", [["Red."]], ["red"], 1)
    assert second["doc"]["question"] == "How many?"
    assert second["score"] == 0


def test_of_equally_frequent_answers_always_the_same_is_guessed() -> None:
    forward = blind_answers([("q", "a"), ("q", "b")])
    assert forward == blind_answers([("q", "b"), ("q", "a")])
