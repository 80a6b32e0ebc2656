"""The evaluation protocol that an annotation format names (`mmcore.data.formats.format.Format.evaluator`)."""

from collections.abc import Callable, Mapping
from typing import Any

from mmcore.data.formats.format import Format
from mmcore.errors import DataError
from mmcore.evaluate.burst import BurstEvaluator
from mmcore.evaluate.class_agnostic import ClassAgnosticEvaluator
from mmcore.evaluate.coco import CocoEvaluator
from mmcore.evaluate.lvis import LvisEvaluator
from mmcore.evaluate.mot import MotEvaluator
from mmcore.evaluate.omnilabel import OmniLabelEvaluator
from mmcore.evaluate.refcoco import RefCocoEvaluator
from mmcore.evaluate.tao import TaoEvaluator
from mmcore.evaluate.video_objects import VideoObjectsEvaluator
from mmcore.evaluate.vqa import AnswerEvaluator
from mmcore.evaluate.youtube_vis import YoutubeVisEvaluator

PROTOCOLS: Mapping[str, Callable[..., Any]] = {
    "coco": CocoEvaluator,
    "lvis": LvisEvaluator,
    "class_agnostic": ClassAgnosticEvaluator,
    "refcoco": RefCocoEvaluator,
    "omnilabel": OmniLabelEvaluator,
    "answers": AnswerEvaluator,
    "youtube_vis": YoutubeVisEvaluator,
    "video_objects": VideoObjectsEvaluator,
    "tao": TaoEvaluator,
    "burst": BurstEvaluator,
    "mot": MotEvaluator,
}
VIDEOS = ("youtube_vis", "video_objects", "tao", "burst", "mot")
"""Those that judge videos; any set of videos can be judged by each."""
OBJECTS = ("coco", "class_agnostic")
"""Those that judge objects of images; any set that one of them or LVIS's own judges can be judged by each."""


def protocol(format: Format, where: str, chosen: str | None = None) -> Callable[..., Any]:
    """The class of evaluators of a format.

    Args:
        format: of the validation set.
        where: it is named, for errors.
        chosen: a protocol other than that of the format, for videos and for objects of images.

    Raises:
        DataError: records of this format are not evaluated, or not by the chosen protocol.
    """
    if chosen is not None:
        known = VIDEOS if format.content == "videos" else (format.evaluator or "none",)
        if format.evaluator in ("coco", "lvis"):
            known = tuple(dict.fromkeys((*known, *OBJECTS)))
        if chosen not in known:
            raise DataError(f"the format {format.name!r} is not judged by {chosen!r}", where=where, known=known)
        return PROTOCOLS[chosen]
    if format.evaluator is not None and format.evaluator in PROTOCOLS:
        return PROTOCOLS[format.evaluator]
    known = [f"{name} ({cls.__name__})" for name, cls in PROTOCOLS.items()]
    raise DataError(
        f"the format {format.name!r} has no evaluation protocol",
        where=where,
        known=known,
        do="give the validation set in another format, or leave it out; see `mmcore data formats`",
    )
