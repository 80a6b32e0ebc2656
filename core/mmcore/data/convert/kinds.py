"""Every conversion by name; `mmcore data convert --help` says what each is for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmcore.data.convert import bdd, burst, frames, mot, painted, tao


@dataclass(frozen=True, slots=True)
class Conversion:
    """One of them."""

    make: Callable[..., dict[str, Any]]
    """From SOURCE and a counter of what is left out, by reason."""
    takes: str | None = None
    """A keyword of `make` beside them, an option of the command."""
    needed: bool = False
    """Whether it must be given."""


KINDS = {
    "frames": Conversion(frames.frames),
    "tao": Conversion(tao.tao),
    "burst": Conversion(burst.burst),
    "masks": Conversion(painted.painted, "expressions"),
    "expressions": Conversion(painted.asked, "images", needed=True),
    "mot": Conversion(mot.mot),
    "bdd-boxes": Conversion(bdd.boxes),
    "bdd-masks": Conversion(bdd.painted),
}
