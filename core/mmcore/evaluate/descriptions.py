"""Descriptions of places in words: METEOR and CIDEr against what people said, as region captions are judged."""

import importlib.util
from collections.abc import Sequence

from mmcore.contract.values import Id
from mmcore.evaluate.captions import METRICS, PACKAGES, caption_scores
from mmcore.evaluate.spoken_boxes import Item, TextEvaluator, mean
from mmcore.evaluate.vqa import normalise_answer


class Descriptions(TextEvaluator):
    """Descriptions of boxes, compared with the one of the file.

    METEOR, CIDEr   as COCO's evaluation of captions gives them; with the extra `captions`, else left out
    exact           share that say the same after the normalisation of the VQA challenge
    parse_rate      share of answers that say anything
    """

    metric_names = (*METRICS, "exact", "parse_rate")  # type: ignore[assignment]

    def summarise(self, items: Sequence[Item]) -> dict[str, float]:
        """The figures."""
        pairs = [(truth.said, item["text"]) for truth, item in self.answered(items)]
        if not pairs:
            return {}
        scores: dict[str, float] = {}
        if all(importlib.util.find_spec(name) is not None for name in PACKAGES):
            references: dict[Id, list[str]] = {number: [said] for number, (said, _) in enumerate(pairs)}
            texts: dict[Id, str] = {number: text for number, (_, text) in enumerate(pairs)}
            scores = caption_scores(references, texts)
        return scores | {
            "exact": mean([normalise_answer(said) == normalise_answer(text) for said, text in pairs]),
            "parse_rate": mean([bool(text.strip()) for _, text in pairs]),
        }
