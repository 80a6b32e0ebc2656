"""The benchmarks that VisPer-LM is reported on, each as a question file with its own way of asking and scoring.

Wording of the instructions is ours; `options.suffix` of a validation set replaces it for those who want the published
prompts to the letter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mmcore.evaluate.vqa import AnswerEvaluator

from mmcore_visper.evaluate.benchmarks import CvBench, Mme, MmStar, RealWorldQa

__all__ = ["BENCHMARKS", "Benchmark", "benchmark"]

SHORT = "\nAnswer with a single word or phrase."


class Benchmark(NamedTuple):
    """How one kind of question file is asked and scored."""

    evaluator: Callable[..., Any]
    """Called with the questions, and what blind guessing would say."""
    suffix: str = ""
    """Added to every question."""
    max_new_tokens: int = 128
    """The published limit."""


BENCHMARKS: dict[str, Benchmark] = {
    "questions": Benchmark(AnswerEvaluator),
    "CV-Bench": Benchmark(CvBench, "\nAnswer with the letter of the option alone, in brackets: (A)."),
    "MMStar": Benchmark(MmStar, "\nAnswer with the letter of the option alone.\n"),
    "RealWorldQA": Benchmark(RealWorldQa, max_new_tokens=16),
    "OK-VQA": Benchmark(
        AnswerEvaluator, f"\nWhen the picture does not tell enough, answer 'Unanswerable'.{SHORT}", 1024
    ),
    "MME": Benchmark(Mme, SHORT, 16),
}


def benchmark(format: str) -> Benchmark:
    """The benchmark of a validation set's format; plain questions for training files."""
    return BENCHMARKS.get(format, BENCHMARKS["questions"])
