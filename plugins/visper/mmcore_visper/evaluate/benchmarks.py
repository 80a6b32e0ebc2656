"""Published scoring rules, applied to a file's questions and a model's answers.

Functions take plain rows, so they can also be used on files that other tools wrote; evaluators wrap them. Rules are
those of the published scripts, oddities included where they move a score (reference 7, quirk 9.15).
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmcore.data.formats.questions import Question
from mmcore.evaluate.vqa import NUMBER_WORDS, AnswerEvaluator, Item

Row = Mapping[str, Any]

# ---- CV-Bench ----

_IN_BRACKETS = re.compile(r"\(([A-Z])\)")


def cv_bench(rows: Sequence[Row]) -> dict[str, float]:
    """CV-Bench (Tong et al. 2024): 2D is the mean of ADE20K and COCO, 3D is Omni3D, overall their mean.

    Args:
        rows: `prediction`, and `answer`, `source` and `task` as text or one-element lists.
    """
    right = [said == _only(row["answer"]) for said, row in zip(cv_bench_answers(rows), rows)]
    by_source = _shares(right, [_only(row["source"]) for row in rows])
    by_task = _shares(right, [_only(row["task"]) for row in rows])
    two = (by_source.get("ADE20K", 0.0) + by_source.get("COCO", 0.0)) / 2
    three = by_source.get("Omni3D", 0.0)
    return {"Overall": (two + three) / 2, "3D": three, "2D": two, **by_task}


def cv_bench_answers(rows: Iterable[Row]) -> list[str]:
    """The option that each prediction names, such as `(A)`.

    A bracket without an option in it repeats the option of the row before: the published script keeps its variable.
    """
    found, option = [], ""
    for row in rows:
        said = str(row["prediction"])
        if "(" in said:
            match = _IN_BRACKETS.search(said)
            option = f"({match.group(1)})" if match else option
        else:
            option = f"({said[:1]})"
        found.append(option)
    return found


# ---- MMStar ----

MMSTAR_CATEGORY, MMSTAR_ALL = 250, 1500
"""Fixed denominators: questions of a category and of the whole benchmark."""
MMSTAR = {
    "coarse perception": ("image scene and topic", "image style & quality", "image emotion"),
    "fine-grained perception": ("object counting", "recognition", "localization"),
    "instance reasoning": (
        "single-instance reasoning",
        "cross-instance attribute reasoning",
        "cross-instance relation reasoning",
    ),
    "logical reasoning": ("code & sequence reasoning", "diagram reasoning", "common reasoning"),
    "science & technology": (
        "biology & chemistry & physics",
        "electronics & energy & mechanical eng.",
        "geography & earth science & agriculture",
    ),
    "math": ("geometry", "numeric commonsense and calculation", "statistical reasoning"),
}


def mmstar_right(prediction: str, answer: str) -> bool:
    """Whether a free answer names the right letter in one of the ways that the benchmark accepts."""
    said, letter = prediction.lower().strip().replace("\n", " "), answer.lower().strip()
    starts = (letter, f"({letter}", f"option {letter}", f"the answer is {letter}")
    return said.startswith(starts)


def mmstar(rows: Sequence[Row]) -> dict[str, float]:
    """MMStar (Chen et al. 2024): hits of each category over 250 and of all over 1500, however many rows there are.

    Args:
        rows: `prediction`, `answer`, `category`, `l2_category`.
    """
    hits = [mmstar_right(str(row["prediction"]), str(_only(row["answer"]))) for row in rows]
    by_category = _sums(hits, [row["category"] for row in rows])
    fine = _shares(hits, [(row["category"], row["l2_category"]) for row in rows])
    result = {"final score": sum(hits) / MMSTAR_ALL}
    for category in dict.fromkeys([*MMSTAR, *by_category]):
        result[category] = by_category.get(category, 0) / MMSTAR_CATEGORY
        inside = dict.fromkeys([*MMSTAR.get(category, ()), *(l2 for one, l2 in fine if one == category)])
        result |= {f"{category}({name})": fine.get((category, name), 0.0) for name in inside}
    return result


# ---- MME ----

MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_score(prediction: str, answer: str) -> float:
    """1 when the first four characters say yes or no, and rightly so."""
    begin = prediction.lower().strip()[:4]
    said = "yes" if "yes" in begin else "no" if "no" in begin else ""
    return float(said == answer.lower().strip().rstrip("."))


def mme(rows: Sequence[Row]) -> dict[str, float]:
    """MME (Fu et al. 2023): per category the accuracy and the share of pictures with both questions right, times 100
    and added; `perception` and `cognition` are sums over their categories.

    Args:
        rows: `question_id` (the picture), `category`, `score`.
    """
    pictures: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        pictures.setdefault(row["category"], {}).setdefault(row["question_id"], []).append(row["score"])
    totals: dict[str, float] = {}
    for category, found in pictures.items():
        scores = [score for both in found.values() for score in both]
        both_right = [sum(both) == 2.0 for both in found.values()]
        totals[category] = 100.0 * (sum(scores) / len(scores) + sum(both_right) / len(both_right))
    cognition = sum(score for category, score in totals.items() if category in MME_COGNITION)
    return {"perception": sum(totals.values()) - cognition, "cognition": cognition, **totals}


# ---- RealWorldQA ----

_NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
_NOT_WORDS = re.compile(r"[^\w\s]")
_OPTION = re.compile(r"\b([A-Z])\.\s+([^\n]*)")


def realworldqa_filtered(prediction: str, question: str) -> str:
    """A reply after the published filters of lmms-eval: a number word becomes digits, punctuation goes, and a reply in
    which the text of a choice is found becomes the letter of that choice.

    The choice found first in the reply counts. Choices are searched with their case and their own punctuation, so that
    one with punctuation in it is never found; letters are given in the order in which the question has them.
    """
    plain = _NOT_WORDS.sub("", _NUMBERS.get(prediction.lower(), prediction)).strip()
    choices = [text.strip() for _, text in _OPTION.findall(question)]
    letters = dict(zip(choices, string.ascii_uppercase, strict=False))  # of equal texts the last counts
    found = re.search("|".join(map(re.escape, choices)), plain)
    return letters.get(found.group(), plain) if found else plain


def realworldqa_right(prediction: str, answer: str, question: str) -> bool:
    """Exact match of the filtered reply, without case and a full stop at its end."""
    return realworldqa_filtered(prediction, question).lower().strip().rstrip(".") == answer.lower().strip()


# ---- evaluators ----


class CvBench(AnswerEvaluator):
    """CV-Bench on a local `test.jsonl`."""

    def score(self, question: Question, said: str) -> float:
        """1 when the option is right; a reply with a bracket but no option in it is wrong here."""
        return float(self.filtered(question, said) == question.answers[0])

    def filtered(self, question: Question, said: str) -> str:
        """The option that the reply names."""
        return cv_bench_answers([{"prediction": said}])[0]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Fractions."""
        answered = self.answered(items)
        rows = [{**one.facts, "prediction": said, "answer": one.answers[0]} for one, said in answered]
        found = cv_bench(rows) if rows else {}
        return {{"Overall": "overall"}.get(name, name): value for name, value in found.items()}


class MmStar(AnswerEvaluator):
    """MMStar on a local file of its questions."""

    def score(self, question: Question, said: str) -> float:
        """1 when the letter is right."""
        return float(mmstar_right(said, question.answers[0]))

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Fractions of the fixed denominators."""
        answered = self.answered(items)
        found = mmstar([{**one.facts, "prediction": said, "answer": one.answers[0]} for one, said in answered])
        return {{"final score": "final"}.get(name, name): value for name, value in found.items()}


class Mme(AnswerEvaluator):
    """MME on a local file; the questions of one picture share its `question_id`."""

    def score(self, question: Question, said: str) -> float:
        """1 when yes or no is right."""
        return mme_score(said, question.answers[0])

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """`perception` (at most 2000) and `cognition` (at most 800) in the benchmark's points, over 100."""
        rows = [
            {
                "question_id": question.facts.get("question_id", question.image),
                "category": question.facts.get("category", ""),
                "score": self.score(question, said),
            }
            for question, said in self.answered(items)
        ]
        return {name: value / 100 for name, value in mme(rows).items()} if rows else {}


class RealWorldQa(AnswerEvaluator):
    """RealWorldQA on a local file of its questions."""

    def score(self, question: Question, said: str) -> float:
        """1 when the filtered reply matches."""
        return float(realworldqa_right(said, question.answers[0], question.text))

    def filtered(self, question: Question, said: str) -> str:
        """The reply after the published filters."""
        return realworldqa_filtered(said, question.text)


# ---- small helpers ----


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def _sums(right: Sequence[bool], keys: Sequence[Any]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for hit, key in zip(right, keys, strict=True):
        found[key] = found.get(key, 0) + hit
    return found


def _shares(right: Sequence[bool], keys: Sequence[Any]) -> dict[Any, float]:
    sums = _sums(right, keys)
    return {key: sums[key] / keys.count(key) for key in sums}
