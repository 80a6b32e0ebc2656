"""Names in published checkpoints <-> ours: VisPer-LM in both directions; language models, CLIP and Depth-Anything in.

Published files are what the trainer saves of the whole model, so files of stage pt also hold the depth decoder and may
hold teachers. Later stages drop the predictors; the task tokens stay.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from mmcore.language.llava import names as llava
from mmcore.language.llava.names import COMPUTED, Part, llava_rules
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_visper.config import TASKS, VisperConfig

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
    return WeightMap(
        rules=(
            *(rule for task, ours in heads.items() for rule in predictor_rules(f"image_{task}_heads", ours)),
            *(Rule(f"{task}_logit_scale", f"logit_scales.{task}", _vector, _scalar) for task in TASKS),
            *(Rule(f"model.special_{task}_tokens", f"task_tokens.{task}") for task in TASKS),
            Rule("da_v2_head.*", "depth_decoder.*"),
            *llava_rules(config.tower),
        ),
        ignored=(*TEACHERS, *COMPUTED, *(pattern for patterns in OPTIONAL.values() for pattern in patterns)),
        new=() if present is None else _lacking(present),
        constants={f"dav2_backbone.{name}": tensor for name, tensor in (teacher or {}).items()},
        label="published VisPer-LM checkpoint",
    )


def _lacking(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns of our parts of which a file holds nothing."""
    names = list(names)
    held = {part: any(fnmatchcase(n, p) for n in names for p in patterns) for part, patterns in OPTIONAL.items()}
    return tuple(f"{part}.*" for part, any_held in held.items() if not any_held)


PARTS: Mapping[str, Part] = {
    **llava.PARTS,
    "depth": Part(
        label="Depth-Anything-V2 checkpoint",
        fills="depth_decoder",
        starts=("depth_head.",),
        rules=(Rule("depth_head.*", "depth_decoder.depth_head.*"),),
        unused=("pretrained.*",),
    ),
}
"""The files of single parts that this family starts from."""
