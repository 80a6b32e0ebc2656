"""Every conversion by name; `mmcore data convert` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmcore.data.convert import bdd, burst, frames, mot, painted, tao


@dataclass(frozen=True, slots=True)
class Conversion:
    """One of them."""

    title: str
    """What SOURCE is, and what becomes of it."""
    make: Callable[..., dict[str, Any]]
    takes: str | None = None
    """A keyword of `make` beside SOURCE, an option of the command."""
    needed: bool = False
    """Whether it must be given."""


KINDS = {
    "frames": Conversion("videos in YouTube-VIS's form: every frame an image, in COCO's or RefCOCO's", frames.frames),
    "tao": Conversion("TAO's own file (validation.json): videos with boxes", tao.tao),
    "burst": Conversion("BURST's own file (val/all_classes.json): videos with masks", burst.burst),
    "masks": Conversion("folder Annotations of DAVIS, YouTube-VOS, MOSE: videos", painted.painted, "expressions"),
    "expressions": Conversion(
        "meta_expressions.json that names no things: videos without annotations", painted.asked, "images", True
    ),
    "mot": Conversion("folder of MOTChallenge's sequences: videos with boxes", mot.mot),
    "bdd-boxes": Conversion("BDD100K's labels with box2d, a file or a folder of videos' files", bdd.boxes),
    "bdd-masks": Conversion("BDD100K's folder bitmasks/SPLIT, of videos or of pictures", bdd.painted),
}
