"""Before training: every answer that the family will learn is written and read again, and has to be what was meant.

A class name with an `&` in it, a hyphen before a bracket, a box that no number can tell: whatever cannot be read out of
the training answers could never be read out of the model's. The result is kept beside the index, by its content.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from mmcore.base.files import replace_text
from mmcore.errors import DataError

from mmcore_griffon.answers import unreadable
from mmcore_griffon.data.lines import Kind
from mmcore_griffon.data.scenes import Scene, Scenes

VERSION = 1
"""Grows when answers are written or read in another way."""


def refuse_unreadable(scenes: Scenes, kinds: Sequence[Kind], side: int, cache: Path) -> None:
    """Refuse records of which an answer cannot be read back.

    Args:
        scenes: the records; those that cannot be used are told elsewhere.
        kinds: how they are asked.
        side: of the square that the model sees, pixels.
        cache: folder in which it is kept that all could be read.

    Raises:
        DataError: names the first that failed, and how many there are.
    """
    named = any(kind not in ("VISJ", "REG") for kind in kinds)
    done = cache / "read-back" / f"{scenes.fingerprint}-{side}-{'named' if named else 'bare'}-{VERSION}.json"
    if done.is_file():
        return
    checked, failed, first = 0, 0, None
    for position in range(len(scenes)):
        if scenes.unusable(position):
            continue
        checked += 1
        why = _why(scenes[position], side, named=named)
        if why is not None:
            failed += 1
            first = first or (scenes[position].where, why)
    if first is not None:
        raise DataError(
            f"{failed} of {checked} training answers cannot be read back, the first: {first[1]}",
            where=first[0],
            known="answers look like name-[0.100,0.200,0.300,0.400]&name-[...]",
            do="rename what it names, or take the record out",
        )
    done.parent.mkdir(parents=True, exist_ok=True)
    replace_text(done, json.dumps({"answers": checked}) + "\n")


def _why(scene: Scene, side: int, *, named: bool) -> str | None:
    names, boxes = scene.rows()
    return unreadable(boxes, scene.size, side, names if named else None)
