"""What passes between data, model, engine and evaluation: frozen values with shapes and units.

    records --transform--> Sample, ClipSample, ConversationSample --collate--> Batch --model--> Losses, Prediction

    parts       Draw, Turn, Encoded, Phrase, Region, VisualPrompt: what samples and predictions are made of
    samples     one image, clip or conversation as it enters a collator
    batch       what the engine moves and counts
    losses      what a model returns in training
    prediction  what it says about one image, the same type for every family

The engine knows only `Batch` and `Losses`; evaluation, drawing and JSON output know only `Prediction`.

Boxes are xyxy. In samples of detectors they are pixels of the transformed image; in conversations and predictions
pixels of the original image, whatever a family writes into its text (`mmcore.geometry.coordinates` converts). Masks
are bitmaps in samples and batches, COCO RLE in predictions.
"""

from mmcore.contract.values.batch import Batch, DetectionBatch, map_tensors
from mmcore.contract.values.losses import Loss, Losses
from mmcore.contract.values.parts import (
    CROP,
    FRAME,
    IGNORED,
    MAIN,
    SEGMENT,
    Box,
    Draw,
    Encoded,
    Id,
    Images,
    Phrase,
    PromptKind,
    Region,
    Turn,
    VisualPrompt,
)
from mmcore.contract.values.prediction import Prediction
from mmcore.contract.values.samples import ClipSample, ConversationSample, Sample

__all__ = [
    "CROP",
    "FRAME",
    "IGNORED",
    "MAIN",
    "SEGMENT",
    "Batch",
    "Box",
    "ClipSample",
    "ConversationSample",
    "DetectionBatch",
    "Draw",
    "Encoded",
    "Id",
    "Images",
    "Loss",
    "Losses",
    "Phrase",
    "Prediction",
    "PromptKind",
    "Region",
    "Sample",
    "Turn",
    "VisualPrompt",
    "map_tensors",
]
