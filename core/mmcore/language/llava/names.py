"""Published files of LLaVA's descendants: the names of the whole model, and which part of it a file holds.

    model.vision_tower.vision_tower.*   tower.*
    model.mm_projector.*                projector.*
    model.*, lm_head                    language.*

Training starts from files of single parts (a language model, a CLIP tower, a projector), told apart by their names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmcore.errors import WeightsError
from mmcore.language.llava.layout import published_names
from mmcore.language.published import language_rules
from mmcore.vision.clip_vit import ClipTower, clip_rules
from mmcore.vision.convnext import convnext_rules
from mmcore.vision.siglip_vit import SiglipTower, siglip_rules
from mmcore.vision.towers import Tower
from mmcore.weights.files import read_tensors
from mmcore.weights.maps import Rule, WeightMap

TOWER = "model.vision_tower.vision_tower."
COMPUTED = ("*.position_ids", "*.inv_freq", "*.vision_model.head.*")
"""In old files, and computed by models; SigLIP's pooling head, which no language model reads."""
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
        starts=("vision_model.pre_layrnorm.", "vision_model.embeddings.class_embedding"),
        rules=tuple(clip_rules("vision_model.", "tower.")),
        unused=("text_model.*", "visual_projection.*", "text_projection.*", "logit_scale"),
    ),
    "siglip": Part(
        label="SigLIP vision tower",
        fills="tower",
        starts=("vision_model.embeddings.patch_embedding.bias",),
        rules=tuple(siglip_rules("vision_model.", "tower.")),
        unused=("text_model.*", "vision_model.head.*", "logit_scale", "logit_bias"),
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
    return (Rule("model.mm_projector.*", "projector.*"), *_tower_rules(tower), *language_rules())


def _tower_rules(tower: Tower) -> list[Rule]:
    if isinstance(tower, ClipTower):
        return clip_rules(f"{TOWER}vision_model.", "tower.")
    if isinstance(tower, SiglipTower):
        return siglip_rules(f"{TOWER}vision_model.", "tower.")
    return [Rule(f"{TOWER}*", "tower.trunk.*")]


_WITHIN: Mapping[str, Mapping[str, str]] = {
    "language": {"model.embed_tokens.": "", "model.layers.": "", "model.norm.": "", "lm_head.": ""},
    "tower": {"vision_model.": "", TOWER: TOWER},
    "projector": {"model.mm_projector.": ""},
}
"""Part -> beginnings of its names in a file, and what is dropped of them where the part stands alone."""


def read_published(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file or folder under published names, whichever version of transformers wrote them.

    Raises:
        MissingDataError, WeightsError: as `mmcore.weights.files.read_tensors`.
    """
    tensors = read_tensors(path)
    renamed = published_names(tensors)
    return {renamed[name]: tensor for name, tensor in tensors.items()}


def only(part: str, tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """Of a file, the tensors of one part, as a file of that part alone has them.

    Raises:
        WeightsError: there are none.
    """
    found = {
        name.removeprefix(dropped): tensor
        for name, tensor in tensors.items()
        for start, dropped in _WITHIN[part].items()
        if name.startswith(start)
    }
    if not found:
        raise WeightsError(f"nothing in this file is of the {part}", where=where, do="give a folder that holds it")
    return found


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
