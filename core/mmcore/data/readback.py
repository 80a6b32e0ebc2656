"""Before training: every answer that a family will learn is written and read again, and has to be what was meant.

A class name with a separator in it, a box that no number can tell: whatever cannot be read out of the training answers
could never be read out of the model's. The result is kept beside the index, by its content.
"""

import json
from collections.abc import Callable
from pathlib import Path

from mmcore.base.files import replace_text
from mmcore.data.named_boxes import Scene, Scenes
from mmcore.errors import DataError


def refuse_unreadable(scenes: Scenes, why: Callable[[Scene], str | None], known: str, way: str, cache: Path) -> None:
    """Refuse records of which an answer cannot be read back.

    Args:
        scenes: the records; those that cannot be used are told elsewhere.
        why: why the answer about a record cannot be read back; None when it can.
        known: what answers look like, for the error.
        way: of writing and reading, as part of a file name; another one is checked anew.
        cache: folder in which it is kept that all could be read.

    Raises:
        DataError: names the first that failed, and how many there are.
    """
    done = cache / "read-back" / f"{scenes.fingerprint}-{way}.json"
    if done.is_file():
        return
    checked, failed, first = 0, 0, None
    for position in range(len(scenes)):
        if scenes.unusable(position):
            continue
        checked += 1
        scene = scenes[position]
        if (reason := why(scene)) is not None:
            failed += 1
            first = first or (scene.where, reason)
    if first is not None:
        raise DataError(
            f"{failed} of {checked} training answers cannot be read back, the first: {first[1]}",
            where=first[0],
            known=known,
            do="rename what it names, or take the record out",
        )
    done.parent.mkdir(parents=True, exist_ok=True)
    replace_text(done, json.dumps({"answers": checked}) + "\n")
