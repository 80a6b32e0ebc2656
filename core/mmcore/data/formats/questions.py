"""Question files for evaluation: read whole by `mmcore.evaluate.vqa`, so the format has no parser of an index."""

from pathlib import Path

from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.glimpse import Glimpse


def _is_questions(glimpse: Glimpse) -> bool:
    first = glimpse.parts.get("questions", glimpse.first)
    return isinstance(first, dict) and bool({"question", "text"} & first.keys()) and bool(_ANSWERS & first.keys())


_ANSWERS = frozenset(("answer", "answers", "gt"))


def _write(folder: Path) -> Written:
    questions = [
        {
            "question_id": scene.image_id,
            "image": miniature.file_name(scene),
            "text": f"What colour is the {miniature.objects(scene)[0].kind}?",
            "answer": miniature.objects(scene)[0].colour,
        }
        for scene in miniature.scenes()
    ]
    miniature.write_pictures(folder / "images")
    miniature.write_lines(folder / "questions.jsonl", questions)
    return Written("questions.jsonl", "images")


FORMATS = (
    Format(
        name="questions",
        metric="accuracy",
        title="questions with answers to compare with: a JSON list, {questions: [...]}, or one object a line",
        content="questions",
        tasks=("ask",),
        evaluator="answers",
        sniff=_is_questions,
        sample=_write,
    ),
)
