"""Question files of short answers, each scored by its benchmark's rule (M4C's evaluators and POPE's script).

TextVQA, OK-VQA    how many of ten people agree; `accuracy`
ST-VQA             1 where any of the answers is the same
ChartQA            numbers may be off by a twentieth
DocVQA             1 minus the edit distance as a share of the longer text, 0 below a half (ANLS)
POPE               yes or no; accuracy, precision, recall, F1 of yes, and how often it is said
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcore.data.formats.format import Format
from mmcore.data.formats.questions import Question
from mmcore.evaluate.vqa import AnswerEvaluator, Item, normalise_answer, vqa_accuracy

OFF = 0.05
"""How far a number may be off, as a share of the right one."""
LEAST = 0.5
"""Answers less like any of the right ones count as wrong in ANLS."""


def plain(answer: str) -> str:
    """An answer as M4C compares it: commas, question marks and possessives apart, then as the VQA challenge does.

    >>> plain("the  red,car"), plain("It's 5 o'clock")
    ('redcar', "it 's 5 o'clock")
    """
    return normalise_answer(answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def agreement(said: str, answers: Sequence[str]) -> float:
    """How many of several people agree, after that normalisation."""
    return vqa_accuracy(plain(said), [plain(answer) for answer in answers])


def any_of(said: str, answers: Sequence[str]) -> float:
    """1 where the answer is one of these."""
    return float(plain(said) in map(plain, answers))


def nearly(said: str, answers: Sequence[str]) -> float:
    """1 where a number is near enough to the first answer, or words are the same."""
    given, right = plain(said), plain(answers[0])
    number, target = _number(given), _number(right)
    if number is not None and target:
        return float(abs(number - target) / abs(target) <= OFF)
    return float(given.lower() == right.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def alike(said: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one answer (ANLS, Biten et al. 2019)."""
    given = plain(said)
    shares = []
    for answer in map(plain, answers):
        first, second = (" ".join(text.strip().lower().split()) for text in (answer, given))
        length = max(len(answer), len(given))
        shares.append(_edits(first, second) / length if length else 0.0)
    best = 1 - min(shares)
    return best if best >= LEAST else 0.0


def _edits(first: str, second: str) -> int:
    """Insertions, deletions and replacements from one text to the other."""
    row = list(range(len(first) + 1))
    for number, letter in enumerate(second, 1):
        before, row = row, [number]
        for place, other in enumerate(first):
            same = before[place]
            row.append(same if letter == other else 1 + min(same, before[place + 1], row[-1]))
    return row[-1]


def is_yes(said: str) -> bool:
    """Whether an answer means yes, by the published rule: neither No nor not in the first sentence of the last line."""
    line = said.strip().split("\n")[-1].strip()
    words = line.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


class ScoredQuestions(AnswerEvaluator):
    """Answers to a file's questions, each scored by one rule.

    Args:
        rule: an answer and the right ones -> between 0 and 1.
        arguments: of `AnswerEvaluator`.
    """

    def __init__(self, rule: Callable[[str, Sequence[str]], float], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rule = rule

    def score(self, question: Question, said: str) -> float:
        """Between 0 and 1."""
        return self.rule(said, question.answers)


class YesOrNo(AnswerEvaluator):
    """POPE: is this thing in the picture."""

    def score(self, question: Question, said: str) -> float:
        """1 where yes and no are told apart."""
        return float(is_yes(said) == (question.answers[0].strip() != "no"))

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """Accuracy, and what the published script prints of yes."""
        pairs = [(is_yes(said), question.answers[0].strip() != "no") for question, said in self.answered(items)]
        return super().summarise(items) | of_yes(pairs) if pairs else {}


def of_yes(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Precision, recall and F1 of yes, and its share; of what was said and what is right."""
    hits = sum(said and right for said, right in pairs)
    said, right = sum(said for said, _ in pairs), sum(right for _, right in pairs)
    precision, recall = hits / max(1, said), hits / max(1, right)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes": said / len(pairs),
    }


BENCHMARKS: Mapping[str, Callable[..., AnswerEvaluator]] = {
    "TextVQA": lambda *given: ScoredQuestions(agreement, *given),
    "OK-VQA": lambda *given: ScoredQuestions(agreement, *given),
    "ST-VQA": lambda *given: ScoredQuestions(any_of, *given),
    "ChartQA": lambda *given: ScoredQuestions(nearly, *given),
    "DocVQA": lambda *given: ScoredQuestions(alike, *given),
    "POPE": YesOrNo,
}
"""Format of a question file -> who scores it."""
FORMATS = tuple(
    Format(
        name=name,
        title=f"question file of {name}, scored by its own rule",
        content="questions",
        tasks=("ask",),
    )
    for name in BENCHMARKS
)
