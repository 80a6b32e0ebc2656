"""Published files of LLaVA's descendants: the names of the whole model, and which part of it a file holds.

    model.vision_tower.vision_tower.*   tower.*
    model.mm_projector.*                projector.*
    model.*, lm_head                    language.*

Training starts from files of single parts (a language model, a CLIP tower, a projector), told apart by their names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmcore.errors import WeightsError
from mmcore.language.published import language_rules
from mmcore.vision.clip_vit import ClipTower, clip_rules
from mmcore.vision.convnext import convnext_rules
from mmcore.vision.towers import Tower
from mmcore.weights.maps import Rule, WeightMap

TOWER = "model.vision_tower.vision_tower."
COMPUTED = ("*.position_ids", "*.inv_freq")
"""In old files; models compute them."""
WHOLE = "whole"
"""What `kind` calls a file of the whole model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One kind of published file, and the part of the model that it fills whole."""

    label: str
    """What it is, for messages."""
    fills: str
    """Our part."""
    starts: tuple[str, ...]
    """Beginnings of names that only such a file has."""
    rules: tuple[Rule, ...]
    unused: tuple[str, ...] = ()
    """Patterns of published names that nothing here reads."""
    unread: tuple[str, ...] = ()
    """Patterns of our names that the file may lack, since nothing runs them."""

    def map(self, own: Iterable[str]) -> WeightMap:
        """The names of the file and ours; the rest of the model stays as it is.

        Args:
            own: names of our state dict.
        """
        rest = (name for name in own if not name.startswith(f"{self.fills}."))
        return WeightMap(
            rules=self.rules, ignored=(*COMPUTED, *self.unused), new=(*self.unread, *rest), label=self.label
        )


PARTS: Mapping[str, Part] = {
    "projector": Part(
        label="published projector",
        fills="projector",
        starts=("model.mm_projector.",),
        rules=(Rule("model.mm_projector.*", "projector.*"),),
    ),
    "language": Part(
        label="language model", fills="language", starts=("model.layers.",), rules=tuple(language_rules())
    ),
    "clip": Part(
        label="CLIP vision tower",
        fills="tower",
        starts=("vision_model.",),
        rules=tuple(clip_rules("vision_model.", "tower.")),
        unused=("text_model.*", "visual_projection.*", "text_projection.*", "logit_scale"),
    ),
    "convnext": Part(
        label="CLIP ConvNeXt",
        fills="tower",
        starts=("stem.", "visual.trunk."),
        rules=tuple(convnext_rules("tower.")),
        unused=("*",),
        unread=("tower.trunk.head.*",),
    ),
}
"""What every descendant of LLaVA starts from."""


def llava_rules(tower: Tower) -> tuple[Rule, ...]:
    """Tower, projector and language model in a file of the whole model; rules of a family's own come before them."""
    is_vit = isinstance(tower, ClipTower)
    return (
        Rule("model.mm_projector.*", "projector.*"),
        *(clip_rules(f"{TOWER}vision_model.", "tower.") if is_vit else [Rule(f"{TOWER}*", "tower.trunk.*")]),
        *language_rules(),
    )


def kind(names: Iterable[str], parts: Mapping[str, Part] = PARTS) -> str:
    """Which published file this is, told from its names: `WHOLE`, or one of `parts`.

    Raises:
        WeightsError: it is none of these.
    """
    names = list(names)
    found = [key for key, part in parts.items() if any(name.startswith(part.starts) for name in names)]
    if {"projector", "language"} <= set(found):
        return WHOLE
    if not found:
        known = ", ".join(part.label for part in parts.values())
        raise WeightsError(
            "nothing in this file is known",
            where=f"{len(names)} tensors, such as {names[0] if names else 'none'}",
            known=known,
            do="give a file of the whole model or of one of these parts",
        )
    return found[0]
