"""Descriptions of places in words (REG): how near they are to what people said."""

from collections.abc import Sequence

from mmcore.evaluate.vqa import normalise_answer

from mmcore_griffon.evaluate.reading import Item, TextEvaluator, mean


class Descriptions(TextEvaluator):
    """Descriptions of boxes, compared with the one of the file.

    exact       share that say the same after the normalisation of the VQA challenge
    words       mean F1 of the words of both
    parse_rate  share of answers that are not empty
    """

    metric_names = ("exact", "words", "parse_rate")  # type: ignore[assignment]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The figures, fractions."""
        pairs = [(truth.said, item["text"]) for truth, item in self.answered(items)]
        if not pairs:
            return {}
        same = [normalise_answer(said) == normalise_answer(text) for said, text in pairs]
        return {
            "exact": mean(same),
            "words": mean([_words(said, text) for said, text in pairs]),
            "parse_rate": mean([bool(text.strip()) for _, text in pairs]),
        }


def _words(said: str, text: str) -> float:
    """F1 of two bags of words."""
    meant, got = normalise_answer(said).split(), normalise_answer(text).split()
    left = list(meant)
    shared = sum(word in left and left.remove(word) is None for word in got)
    return 2 * shared / max(1, len(meant) + len(got))
