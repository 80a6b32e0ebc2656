"""Grounded captions against GranD-f's truth, by the published protocol (Rasheed et al. 2024, `eval/gcg/evaluate.py`).

    METEOR, CIDEr   of the captions, as pycocoevalcap gives them
    AP50            COCO's, category-blind, every mask with score 1
    mIoU            per picture: the best pair of masks is taken, then the best of what is left, ...; mean over
                    its pairs, then over pictures
    recall          per picture: pairs in the same manner, until one overlaps by less than 0.5 or its phrases are less
                    alike than 0.5; pairs over phrases of the truth

Phrases are compared by BERT (`bert-base-uncased`, cosine of mean last states). `options.alike=words` compares their
words instead (Jaccard), which needs no BERT; the figure is then called `recall_words`, for it is another one.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmcore.contract.protocols import Evaluator
from mmcore.contract.values import Batch, Id, Prediction
from mmcore.data.formats.truth import listed, read_json
from mmcore.errors import DataError
from mmcore.evaluate.captions import caption_scores, require_captions
from mmcore.evaluate.metrics import unique
from mmcore.geometry import masks

Alike = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""(truth, predicted) -> how alike each pair of phrases is, 1 for equal."""
LEAST = 0.5


class GroundedCaptionEvaluator(Evaluator):
    """Captions, masks and phrases of the pictures of one split.

    Args:
        captions: `*_gcg_coco_caption_gt.json`.
        masks: `*_gcg_coco_mask_gt.json`.
        words: compare phrases by their words instead of BERT.
        captioned: whether captions are scored.

    Raises:
        PluginError: the extra `captions` is not installed.
    """

    def __init__(self, captions: Path, masks: Path, *, words: bool = False, captioned: bool = True) -> None:
        if captioned:
            require_captions("validation by grounded captions")
        self.captions, self.masks = captions, masks
        self._words, self._captioned = words, captioned
        self._items: list[dict[str, Any]] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """In the order of the published table."""
        recall = "recall_words" if self._words else "recall"
        return (*(("METEOR", "CIDEr") if self._captioned else ()), "AP50", "mIoU", recall)

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch."""
        del batch
        for one in predictions:
            phrases = [(one.text or "")[phrase.start : phrase.end] for phrase in one.phrases]
            item = {"image_id": one.image_id, "record_id": None, "caption": one.text or "", "phrases": phrases}
            self._items.append({**item, "pred_masks": [dict(mask) for mask in one.masks or ()]})

    def state(self) -> list[dict[str, Any]]:
        """What the published inference writes for each picture."""
        return self._items

    def results(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """The same, each picture once."""
        return unique(items)

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        """The published table."""
        once = unique(items)
        truth = Truth(self.captions, self.masks, [item["image_id"] for item in once])
        figures: dict[str, float] = {}
        if self._captioned:
            figures |= caption_scores(truth.captions, {item["image_id"]: item["caption"] for item in once})
        figures["AP50"] = average_precision(truth, once)[1]
        overlaps = {item["image_id"]: iou_matrix(item["pred_masks"], truth.masks[item["image_id"]]) for item in once}
        figures["mIoU"] = float(np.mean([mean_iou(overlaps[item["image_id"]]) for item in once])) if once else 0.0
        alike = by_words if self._words else by_bert()
        figures["recall_words" if self._words else "recall"] = recall(truth, once, overlaps, alike)
        return figures


class Truth:
    """The truth about some pictures.

    Args:
        captions: the file of captions.
        masks: the file of masks.
        pictures: ids that are judged.

    Raises:
        DataError: a file is not in the format, or a picture is not in it.
    """

    def __init__(self, captions: Path, masks: Path, pictures: Sequence[Id]) -> None:
        said, drawn = read_json(captions), read_json(masks)
        self.pictures = tuple(pictures)
        self.captions: dict[Id, list[str]] = {}
        self.labels: dict[Id, list[str]] = {}
        for one in listed(said, "annotations", captions):
            self.captions.setdefault(one["image_id"], []).append(one["caption"])
            self.labels.setdefault(one["image_id"], one["labels"])  # the first caption's are scored, as published
        wanted = set(pictures)
        self.images = [one for one in listed(drawn, "images", masks) if one["id"] in wanted]
        self.annotations = [one for one in listed(drawn, "annotations", masks) if one["image_id"] in wanted]
        self.masks: dict[Id, list[Mapping[str, Any]]] = {picture: [] for picture in pictures}
        for one in self.annotations:
            self.masks[one["image_id"]].append(one["segmentation"])
        missing = [picture for picture in pictures if picture not in self.captions]
        if missing:
            raise DataError(f"{len(missing)} pictures have no caption, such as {missing[0]!r}", where=captions)


def average_precision(truth: Truth, items: Sequence[Mapping[str, Any]]) -> list[float]:
    """COCO's twelve numbers for masks of one category, every prediction with score 1."""
    number = {picture: place for place, picture in enumerate(truth.pictures, 1)}
    known: Any = COCO()  # its stubs know files only
    found = [
        {"image_id": number[item["image_id"]], "category_id": 1, "segmentation": mask, "score": 1.0}
        for item in items
        for mask in item["pred_masks"]
    ]
    # `createIndex` and `evaluate` print to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        known.dataset = {
            "images": [{**one, "id": number[one["id"]]} for one in truth.images],
            "annotations": [_annotation(one, number) for one in truth.annotations],
            "categories": [{"id": 1, "name": "object"}],
        }
        known.createIndex()
        if not found:
            return [0.0] * 12
        judged = COCOeval(known, known.loadRes(found), "segm")
        judged.params.catIds = [1]
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return [float(value) for value in judged.stats]


def _annotation(one: Mapping[str, Any], number: Mapping[Id, int]) -> dict[str, Any]:
    area = one.get("area", masks.area(one["segmentation"]) if isinstance(one["segmentation"], Mapping) else 0)
    return {**one, "image_id": number[one["image_id"]], "category_id": 1, "area": area, "iscrowd": 0}


def iou_matrix(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(found, wanted) overlaps of masks.

    Raises:
        DataError: masks of one picture differ in size.
    """
    if not found or not wanted:
        return np.zeros((len(found), len(wanted)))
    one = masks.decode_all(found).reshape(len(found), -1).astype(np.float32)
    other = masks.decode_all(wanted).reshape(len(wanted), -1).astype(np.float32)
    if one.shape[1] != other.shape[1]:
        raise DataError(f"predicted masks are {found[0]['size']}, the truth {wanted[0]['size']}")
    inter = (one @ other.T).astype(np.float64)
    union = one.sum(1, dtype=np.float64)[:, None] + other.sum(1, dtype=np.float64)[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def mean_iou(overlaps: np.ndarray) -> float:
    """Mean over the pairs that are found by taking the best one, then the best of the rest, while any overlaps."""
    left, paired = overlaps.copy(), []
    while left.size and left.max() > 0:
        row, column = np.unravel_index(np.argmax(left), left.shape)
        paired.append(left[row, column])
        left[row, :], left[:, column] = 0, 0
    return float(np.mean(paired)) if paired else 0.0


def matches(overlaps: np.ndarray, alike: np.ndarray) -> list[tuple[int, int]]:
    """(truth, predicted) pairs, best first, until one is not admissible.

    Args:
        overlaps: (truth, predicted) of masks.
        alike: (truth labels, predicted phrases).

    Raises:
        IndexError: the best pair has no phrase; the released protocol leaves such a picture out.
    """
    left, pairs, taken = overlaps.copy(), [], alike.copy()
    while left.size:
        row, column = np.unravel_index(np.argmax(left), left.shape)
        if left[row, column] < LEAST or taken[row, column] < LEAST:
            break
        pairs.append((int(row), int(column)))
        left[row, :], left[:, column] = 0, 0
        taken[row, :], taken[:, column] = 0, 0
    return pairs


def recall(truth: Truth, items: Sequence[Mapping[str, Any]], overlaps: Mapping[Id, np.ndarray], alike: Alike) -> float:
    """Matched pairs over phrases of the truth.

    A picture on which the released script stops (a best pair without a phrase) counts with its phrases and no match, as
    there; so does one without a mask.
    """
    found = wanted = 0
    for item in items:
        labels, phrases = truth.labels[item["image_id"]], item["phrases"]
        wanted += len(labels)
        if not item["pred_masks"]:
            continue
        with contextlib.suppress(IndexError):
            found += len(matches(overlaps[item["image_id"]].T, alike(labels, phrases)))
    return found / wanted if wanted else 0.0


def by_words(truth: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
    """(truth, predicted) shared words over all words."""
    ours, theirs = ([set(text.split()) for text in texts] for texts in (truth, predicted))
    rows = [[len(a & b) / len(a | b) if a | b else 0.0 for b in theirs] for a in ours]
    return np.array(rows, np.float64).reshape(len(truth), len(predicted))


def by_bert(name: str = "bert-base-uncased") -> Alike:
    """BERT's cosine of the mean of the last states, special tokens included; each phrase is read once.

    Raises:
        WeightsError: the model is neither on this machine nor to be had.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from mmcore.errors import WeightsError

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModel.from_pretrained(name, trust_remote_code=False).eval()
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"recall compares phrases by {name}, which is not at hand: {str(error).splitlines()[0]}",
            where="validation by grounded captions",
            do="go online once, or compare words: --set validation.NAME.options.alike=words",
        ) from None
    known: dict[str, np.ndarray] = {}

    def state(text: str) -> np.ndarray:
        if text not in known:
            with torch.inference_mode():
                read = model(**tokenizer(text, return_tensors="pt", max_length=512, truncation=True))
            mean = read.last_hidden_state[0].mean(0).numpy()
            known[text] = mean / np.linalg.norm(mean)
        return known[text]

    def alike(truth: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
        ours, theirs = ([state(text) for text in texts] for texts in (truth, predicted))
        return np.array([[float(a @ b) for b in theirs] for a in ours]).reshape(len(truth), len(predicted))

    return alike
