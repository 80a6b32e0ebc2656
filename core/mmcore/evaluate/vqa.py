"""Questions about pictures (`mmcore.data.formats.questions`): how an answer is compared with what people said.

Predictions are compared after the normalisation of the VQA challenge (Antol et al. 2015, section 5; the evaluation of
EvalAI): lower case, no punctuation, no articles, digits for number words.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcore.base.files import replace_text
from mmcore.base.hashing import name_key
from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Prediction
from mmcore.data.formats.questions import Question

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(digit) for digit, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll let's ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't ow's'at 'twas shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've
wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
you'd've you'll you're you've
"""


def _without_some_apostrophes(word: str) -> Iterable[str]:
    """The word with one or more of its apostrophes left out."""
    pieces = word.split("'")
    for kept in range(2 ** (len(pieces) - 1) - 1):
        marks = ["'" if kept >> i & 1 else "" for i in range(len(pieces) - 1)]
        yield "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True))


_RESTORED = {
    short: word
    for word in _CONTRACTIONS.split()
    for short in _without_some_apostrophes(word)
    # "id", "shed" or "its" are words of their own.
    if short.lower() not in {"hed", "shed", "wed", "well", "were", "ill", "shell", "id", "its", "lets'"}
}
_COMMA_IN_NUMBER = re.compile(r"(\d)(,)(\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
"""As published, where the lookbehind is misspelt: every period that no digit follows."""


def normalise_answer(answer: str) -> str:
    """An answer as the VQA challenge compares it.

    >>> normalise_answer("The two dogs."), normalise_answer("dont know"), normalise_answer("1,000")
    ('2 dogs', "don't know", '1000')
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_punctuation(text))


def _without_punctuation(text: str) -> str:
    result = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        glued = beside_blank or _COMMA_IN_NUMBER.search(text) is not None
        result = result.replace(mark, "" if glued else " ")
    return _PERIOD.sub("", result)


def _words(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How many people agree: the mean over all leave-one-out sets of min(1, others who said so / 3).

    Args:
        prediction: the model's words.
        answers: what people said; with fewer than two the prediction is right or wrong.
    """
    said = normalise_answer(prediction)
    people = [normalise_answer(answer) for answer in answers]
    if len(people) < 2:
        return float(said in people)
    agreeing = people.count(said)
    scores = [min(1.0, (agreeing - (person == said)) / 3) for person in people]
    return sum(scores) / len(scores)


# ---- evaluation ----

Item = dict[str, Any]


class AnswerEvaluator(Evaluator):
    """Collects answers to a file's questions; `accuracy`, one accuracy per category, and what blind guessing reaches.

        accuracy             share of the questions answered right (VQA accuracy where several people answered)
        accuracy/CATEGORY    the same for the questions of one category
        chance               the same for somebody who sees no picture and says the most frequent training answer to
                             the same question, or the most frequent answer at all

    Args:
        questions: the file's.
        blind: question text -> that answer; None leaves `chance` out.
        commonest: the most frequent training answer at all.
    """

    def __init__(
        self, questions: Sequence[Question], blind: Mapping[str, str] | None = None, commonest: str = ""
    ) -> None:
        self.questions = {question.id: question for question in questions}
        self.blind, self.commonest = blind, commonest
        self._items: list[Item] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the summary, which depend on the categories of the questions: those of silence."""
        return tuple(self.summarise([{"record_id": id_, "text": ""} for id_ in self.questions]))

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the answers of one batch."""
        self._items += [
            {"image_id": one.image_id, "record_id": one.key, "text": (one.text or "").strip()} for one in predictions
        ]

    def state(self) -> list[Item]:
        """Image, question id (`record_id`) and answer."""
        return self._items

    def results(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Every question with the model's answer, for people and for other tools."""
        return [
            {
                "question_id": question.id,
                "image": question.image,
                "question": question.text,
                "prediction": said,
                "answers": list(question.answers),
                "score": self.score(question, said),
                **question.facts,
            }
            for question, said in self.answered(items)
        ]

    def filtered(self, question: Question, said: str) -> str:
        """The answer as it is compared, for files that show it."""
        return normalise_answer(said)

    def write(self, items: Sequence[Item], folder: Path) -> None:
        """`answers.jsonl`, a line a question with the entries of lmms-eval's sample logs."""
        lines = [
            {
                "doc_id": number,
                "doc": {"question_id": question.id, "question": question.text, "image": question.image}
                | dict(question.facts),
                "target": question.answers[0] if len(question.answers) == 1 else list(question.answers),
                "resps": [[said]],
                "filtered_resps": [self.filtered(question, said)],
                "score": self.score(question, said),
            }
            for number, (question, said) in enumerate(self.answered(items))
        ]
        replace_text(folder / "answers.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def answered(self, items: Sequence[Item]) -> list[tuple[Question, str]]:
        """Each question among the items once, with what was said, in the order of the file."""
        said = {item["record_id"]: item["text"] for item in items}
        return [(question, said[id_]) for id_, question in self.questions.items() if id_ in said]

    def score(self, question: Question, said: str) -> float:
        """Between 0 and 1."""
        return vqa_accuracy(said, question.answers)

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The metrics; fractions."""
        answered = self.answered(items)
        if not answered:
            return {}
        scores = [self.score(question, said) for question, said in answered]
        metrics = {"accuracy": _mean(scores)}
        if self.blind is not None:
            metrics["chance"] = _mean([self.score(question, self._guess(question)) for question, _ in answered])
        categories: dict[str, list[float]] = {}
        for (question, _), score in zip(answered, scores):
            if "category" in question.facts:
                categories.setdefault(str(question.facts["category"]), []).append(score)
        return metrics | {f"accuracy/{name}": _mean(found) for name, found in sorted(categories.items())}

    def _guess(self, question: Question) -> str:
        assert self.blind is not None
        return self.blind.get(question.text, self.commonest)


def blind_answers(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], str]:
    """What somebody says who has only read the training questions: the most frequent answer to each, and of all.

    Args:
        pairs: question and answer of every training turn.
    """
    by_question: dict[str, Counter[str]] = {}
    overall: Counter[str] = Counter()
    for question, answer in pairs:
        by_question.setdefault(question, Counter())[answer] += 1
        overall[answer] += 1
    return {question: _commonest(found) for question, found in by_question.items()}, _commonest(overall)


def _commonest(counted: Counter[str]) -> str:
    """The most frequent; of several, an arbitrary one that is always the same."""
    return max(counted, key=lambda answer: (counted[answer], name_key(answer)), default="")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
