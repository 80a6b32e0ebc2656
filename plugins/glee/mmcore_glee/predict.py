"""From query outputs to predictions: the published selection, boxes and masks at the size of the original image."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from mmcore.contract.values import Prediction
from mmcore.geometry.boxes import cxcywh_to_xyxy
from mmcore.geometry.masks import Rle, encode_all
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import GleeConfig
from mmcore_glee.outputs import DecoderOutputs

LONG_TASKS = frozenset({"lvis", "image_tao", "image_bur", "omnilabel"})
"""Tasks whose published protocol keeps 300 results instead of 100; OmniLabel's, assumed, counts 100 for each text."""
MASKS_AT_ONCE = 16
"""Masks enlarged to the original size at a time; bounds memory, not results."""


def predictions(outputs: DecoderOutputs, batch: GleeBatch, config: GleeConfig) -> list[Prediction]:
    """One prediction per image, best score first.

    A result is a pair of query and class among the best; its score is the class probability times the mean mask
    probability inside the mask. Boxes are not clipped to the image.
    """
    return [_predict_image(i, outputs, batch, config) for i in range(len(batch.image_sizes))]


def num_results(batch: GleeBatch, config: GleeConfig) -> int:
    """How many results an image has at most."""
    if batch.expressions is not None or batch.prompt_masks is not None:
        return 1
    return config.long_detections if batch.task in LONG_TASKS else config.detections


def select(
    logits: Float[Tensor, "queries classes"], most: int
) -> tuple[Float[Tensor, " results"], Int[Tensor, " results"], Int[Tensor, " results"]]:
    """Probability, query and class of the best pairs."""
    scores, pairs = logits.sigmoid().flatten().topk(min(most, logits.numel()))
    return scores, pairs // logits.shape[1], pairs % logits.shape[1]


def shown_size(image: tuple[int, int], original: tuple[int, int], *, squared: bool) -> tuple[int, int]:
    """Height and width of the part of a batch's image that shows the original.

    Args:
        image: size before the batch was padded.
        original: size of the image on disk.
        squared: the image was padded to a square itself; the published code does not keep the size before that and
            computes it, rounding down.
    """
    if not squared:
        return image
    scale = image[0] / max(original)
    return int(original[0] * scale), int(original[1] * scale)


def _predict_image(i: int, outputs: DecoderOutputs, batch: GleeBatch, config: GleeConfig) -> Prediction:
    final = outputs.sets["final"]
    scores, queries, labels = select(final.logits[i].float(), num_results(batch, config))
    height, width = batch.original_sizes[i]
    padded = (batch.images.shape[-2], batch.images.shape[-1])
    image = shown_size(batch.image_sizes[i], (height, width), squared=batch.squared)
    boxes = _boxes(final.boxes_cxcywh[i, queries].float(), padded, image, (height, width))
    if batch.squared:  # as published, only here are boxes clipped
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    assert final.mask_embed is not None
    # A query may stand for several classes; its mask is made once.
    distinct, inverse = queries.unique(return_inverse=True)
    embed = final.mask_embed[i, distinct].float()
    quality, masks = _masks(embed, outputs.mask_features[i].float(), padded, image, (height, width))
    scores = scores * quality[inverse]
    order = scores.argsort(descending=True, stable=True)
    labels = labels[order].cpu()
    names = _names(i, batch)
    return Prediction(
        image_id=batch.image_ids[i],
        size=(height, width),
        boxes_xyxy=boxes[order].cpu(),
        scores=scores[order].cpu(),
        labels=labels,
        names=tuple(names[label] for label in labels.tolist()),
        masks=tuple(masks[row] for row in inverse[order].tolist()),
    )


def _boxes(
    boxes_cxcywh: Float[Tensor, "results 4"], padded: tuple[int, int], image: tuple[int, int], original: tuple[int, int]
) -> Float[Tensor, "results 4"]:
    """Fractions of the padded image -> pixels of the original one."""
    height, width = (p / n * o for p, n, o in zip(padded, image, original, strict=True))
    return cxcywh_to_xyxy(boxes_cxcywh) * boxes_cxcywh.new_tensor([width, height, width, height])


def _masks(
    embed: Float[Tensor, "queries mask_dim"],
    features: Float[Tensor, "mask_dim h w"],
    padded: tuple[int, int],
    image: tuple[int, int],
    original: tuple[int, int],
) -> tuple[Float[Tensor, " queries"], list[Rle]]:
    """Quality and run lengths of each query's mask at the original size."""
    logits = torch.einsum("qc,chw->qhw", embed, features)
    quality, masks = [], []
    for enlarged in enlarged_masks(logits, padded, image, original):
        mask = enlarged > 0
        inside = (enlarged.sigmoid() * mask).sum((1, 2))
        quality.append(inside / (mask.sum((1, 2)) + 1e-6))
        masks.extend(encode_all(mask.cpu().numpy()))
    return torch.cat(quality), masks


def enlarged_masks(
    logits: Float[Tensor, "queries h w"], padded: tuple[int, int], image: tuple[int, int], original: tuple[int, int]
) -> Iterator[Float[Tensor, "some height width"]]:
    """Mask logits at the padded size, cut to the image, at the original size; a few at a time."""
    for some in logits.split(MASKS_AT_ONCE):
        full = F.interpolate(some[None], size=padded, mode="bilinear", align_corners=False)
        full = full[..., : image[0], : image[1]]
        yield F.interpolate(full, size=original, mode="bilinear", align_corners=False)[0]


def _names(i: int, batch: GleeBatch) -> tuple[str, ...]:
    return batch.names if batch.expressions is None else (batch.expressions[i],)
