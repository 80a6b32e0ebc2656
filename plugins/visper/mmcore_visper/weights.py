"""Names in published checkpoints <-> ours: VisPer-LM in both directions; language models, CLIP and Depth-Anything in.

Published files are what the trainer saves of the whole model, so files of stage pt also hold the depth decoder and may
hold teachers. Later stages drop the predictors; the task tokens stay.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from mmcore.errors import WeightsError
from mmcore.vision.clip_vit import ClipTower, clip_rules
from mmcore.vision.convnext import convnext_rules
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_visper.config import TASKS, VisperConfig

FORMATS = ("upstream",)
TOWER = "model.vision_tower.vision_tower."
TEACHERS = ("dav2_backbone.*", "oneformer.*")
"""Sub-modules of the published training model; ours are not part of the model."""
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "predictors": ("image_*_heads.*",),
    "probes": ("image_*_heads.*",),
    "logit_scales": ("*_logit_scale",),
    "depth_decoder": ("da_v2_head.*",),
    "task_tokens": ("model.special_*_tokens",),
}
"""Our parts that some stages lack, and their published names."""
_COMPUTED = ("*.position_ids", "*.inv_freq")

_RESAMPLER = {
    "layers.*.0.norm1.*": "blocks.*.attention.norm_tokens.*",
    "layers.*.0.norm2.*": "blocks.*.attention.norm_queries.*",
    **{f"layers.*.0.{name}.weight": f"blocks.*.attention.{name}.weight" for name in ("to_q", "to_kv", "to_out")},
    **{f"layers.*.1.{number}.*": f"blocks.*.ffn.{number}.*" for number in (0, 1, 3)},
    "*": "*",
}
"""Within a resampler; the first that fits counts."""


def predictor_rules(published: str, ours: str) -> list[Rule]:
    """Predictors or probes, one for each layer."""
    mlps = [Rule(f"{published}.*.linear_{i + 1}.*", f"{ours}.*.mlps.{i}.*") for i in range(3)]
    parts = [Rule(f"{published}.*.projector.{a}", f"{ours}.*.resampler.{b}") for a, b in _RESAMPLER.items()]
    return mlps + parts


def _vector(scale: Tensor) -> Tensor:
    return scale.reshape(1)


def _scalar(scale: Tensor) -> Tensor:
    return scale.reshape(())


def upstream(
    config: VisperConfig, present: Iterable[str] | None = None, *, teacher: Mapping[str, Tensor] | None = None
) -> WeightMap:
    """The published VisPer-LM format.

    Args:
        config: what the model consists of.
        present: names of a file; parts of ours that it lacks altogether may stay new. None asks for every part.
        teacher: tensors of a Depth-Anything-V2 file, which published depth probes hold as well.
    """
    heads = {config.probe: "probes"} if config.probe else {task: f"predictors.{task}" for task in TASKS}
    is_vit = isinstance(config.tower, ClipTower)
    return WeightMap(
        rules=(
            *(rule for task, ours in heads.items() for rule in predictor_rules(f"image_{task}_heads", ours)),
            *(Rule(f"{task}_logit_scale", f"logit_scales.{task}", _vector, _scalar) for task in TASKS),
            *(Rule(f"model.special_{task}_tokens", f"task_tokens.{task}") for task in TASKS),
            Rule("da_v2_head.*", "depth_decoder.*"),
            Rule("model.mm_projector.*", "projector.*"),
            *(clip_rules(f"{TOWER}vision_model.", "tower.") if is_vit else [Rule(f"{TOWER}*", "tower.trunk.*")]),
            Rule("model.*", "language.model.*"),
            Rule("lm_head.weight", "language.lm_head.weight"),
        ),
        ignored=(*TEACHERS, *_COMPUTED, *(pattern for patterns in OPTIONAL.values() for pattern in patterns)),
        new=() if present is None else _lacking(present),
        constants={f"dav2_backbone.{name}": tensor for name, tensor in (teacher or {}).items()},
        label="published VisPer-LM checkpoint",
    )


def _lacking(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns of our parts of which a file holds nothing."""
    names = list(names)
    held = {part: any(fnmatchcase(n, p) for n in names for p in patterns) for part, patterns in OPTIONAL.items()}
    return tuple(f"{part}.*" for part, any_held in held.items() if not any_held)


LABELS: Mapping[str, str] = {
    "projector": "published projector",
    "language": "language model",
    "clip": "CLIP vision tower",
    "convnext": "CLIP ConvNeXt",
    "depth": "Depth-Anything-V2 checkpoint",
}
FILLS: Mapping[str, str] = {
    "projector": "projector",
    "language": "language",
    "clip": "tower",
    "convnext": "tower",
    "depth": "depth_decoder",
}
"""The part that a file of each kind fills whole."""
_RULES: Mapping[str, tuple[Rule, ...]] = {
    "projector": (Rule("model.mm_projector.*", "projector.*"),),
    "language": (Rule("model.*", "language.model.*"), Rule("lm_head.weight", "language.lm_head.weight")),
    "clip": tuple(clip_rules("vision_model.", "tower.")),
    "convnext": tuple(convnext_rules("tower.")),
    "depth": (Rule("depth_head.*", "depth_decoder.depth_head.*"),),
}
_UNUSED: Mapping[str, tuple[str, ...]] = {
    "clip": ("text_model.*", "visual_projection.*", "text_projection.*", "logit_scale"),
    "convnext": ("*",),
    "depth": ("pretrained.*",),
}
_UNREAD = "tower.trunk.head.*"
"""Files of the trunk alone may lack its norm behind the last map, which is never run."""


def kind(names: Iterable[str]) -> str:
    """Which published file this is, told from its names.

    Raises:
        WeightsError: it is none that this family starts from.
    """
    names = list(names)
    starts = tuple(name.split(".", 3)[:3] for name in names)
    if any(start[:2] == ["model", "mm_projector"] for start in starts):
        return "upstream" if any(start[:2] == ["model", "layers"] for start in starts) else "projector"
    if any(start[:2] == ["model", "layers"] for start in starts):
        return "language"
    for first, found in (("vision_model", "clip"), ("stem", "convnext"), ("depth_head", "depth")):
        if any(start[0] == first for start in starts):
            return found
    if any(start[:2] == ["visual", "trunk"] for start in starts):
        return "convnext"
    raise WeightsError(
        "nothing in this file is known to VisPer-LM",
        known=f"{len(names)} tensors, such as {names[0] if names else 'none'}",
        do="give a VisPer-LM, a Llama or Phi-3, a CLIP tower, a projector or a Depth-Anything-V2 file",
    )


def part(found: str, own: Iterable[str]) -> WeightMap:
    """The map of a file that fills one part of the model; the rest stays as it is.

    Args:
        found: from `kind`, not "upstream".
        own: names of our state dict.
    """
    filled = FILLS[found] + "."
    return WeightMap(
        rules=_RULES[found],
        ignored=(*_COMPUTED, *_UNUSED.get(found, ())),
        new=(_UNREAD, *(name for name in own if not name.startswith(filled))),
        label=LABELS[found],
    )


def with_all_words(tensors: Mapping[str, Tensor], words: int) -> dict[str, Tensor]:
    """A language model's tensors with an output layer of its own and `words` rows in both matrices.

    New rows are the mean of the old ones, as the published code makes the row of `<pad>`.
    """
    embedding, output = "model.embed_tokens.weight", "lm_head.weight"
    result = dict(tensors)
    if embedding in result:
        result.setdefault(output, result[embedding])
    for name in (embedding, output):
        if name in result and len(result[name]) < words:
            old = result[name]
            mean = old.float().mean(0, keepdim=True).to(old.dtype)
            result[name] = torch.cat([old, mean.expand(words - len(old), -1)])
    return result
