"""The vision tower of a folder that transformers wrote: its sizes, and how its pictures are prepared.

Towers stand alone (`CLIPVisionModel`, `SiglipVisionModel`), beside a text encoder (`CLIPModel`), or below a language
model (`LlavaForConditionalGeneration`); the part about the tower reads the same in all of them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mmcore.base.jsonfile import read_json
from mmcore.errors import RecipeError, WeightsError, suggest

KINDS: Mapping[str, str] = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
"""`model_type` of a tower -> its kind in `mmcore.vision.towers`."""
WHOLE: Mapping[str, str] = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "llava": "clip_vision_model"}
"""`model_type` of a model with a tower -> that of the tower where its part does not say it."""
PROCESSOR = "preprocessor_config.json"
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_act": "act",
    "layer_norm_eps": "eps",
}
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def read_tower(entries: Mapping[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """The recipe's `model.tower` for a folder.

    Args:
        entries: its `config.json`.
        folder: where `preprocessor_config.json` may lie.
        name: what the tower is called from now on.

    Raises:
        RecipeError: the architecture is not known; with those that are.
        WeightsError: an entry says what our tower does not do.
    """
    model_type = str(entries.get("model_type"))
    part = entries.get("vision_config") if model_type in WHOLE else entries
    part = dict(part or {})
    kind = str(part.pop("model_type", None) or WHOLE.get(model_type))
    kind = WHOLE.get(kind, kind)  # the part of a CLIPModel may call itself "clip"
    if kind not in KINDS:
        known = [*KINDS, *WHOLE]
        raise RecipeError(
            f"{model_type!r} is no vision tower that mmcore knows",
            where=folder / "config.json",
            known=known,
            do=suggest(model_type, known, "give the folder of one of these"),
        )
    config = AutoConfig.for_model(kind, **_with_llava_sizes(part, model_type))
    tower: dict[str, Any] = {"kind": KINDS[kind], "name": name}
    tower |= {ours: getattr(config, theirs) for theirs, ours in _SIZES.items()}
    if KINDS[kind] == "clip":
        tower["projection_dim"] = config.projection_dim
    for side in ("image_size", "patch_size"):
        if not isinstance(tower[side], int):
            raise WeightsError(f"{side} {tower[side]} is no square", where=folder / "config.json")
    if model_type == "llava":
        tower |= _read_rows(entries, tower["kind"], folder / "config.json")
    return tower | _read_pixels(folder, tower["image_size"])


def _read_rows(entries: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """Which state of the tower a LLaVA reads, and which of its rows."""
    layer, rows = entries.get("vision_feature_layer", -2), entries.get("vision_feature_select_strategy", "default")
    if not isinstance(layer, int):
        raise WeightsError(f"vision_feature_layer {layer} reads several states at once", where=path)
    if kind == "siglip":
        if rows != "full":
            raise WeightsError(f"vision_feature_select_strategy {rows!r} leaves out SigLIP's first patch", where=path)
        return {"select_layer": layer}
    return {"select_layer": layer, "select_feature": {"default": "patch", "full": "cls_patch"}[rows]}


def _with_llava_sizes(part: dict[str, Any], model_type: str) -> dict[str, Any]:
    """A LLaVA leaves out what is the same in ViT-L/14-336, its default tower."""
    if model_type != "llava" or "model_type" in part:
        return part
    usual = AutoConfig.for_model("llava").vision_config.to_dict()
    return {**{name: usual[name] for name in _SIZES}, "projection_dim": usual["projection_dim"], **part}


def _read_pixels(folder: Path, side: int) -> dict[str, Any]:
    """Mean, deviation and filter of the folder's pictures; nothing where it does not say."""
    path = folder / PROCESSOR
    if not path.is_file():
        return {}
    try:
        said = read_json(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read: {error}", where=path) from None
    sizes = {value for name in ("size", "crop_size") for value in _sides(said.get(name))}
    if sizes and sizes != {side}:
        raise WeightsError(
            f"pictures are prepared at {', '.join(map(str, sorted(sizes)))} pixels, the tower takes {side}",
            where=path,
            do="give a folder whose tower and picture processor agree",
        )
    if not math.isclose(said.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise WeightsError(f"rescale_factor {said['rescale_factor']} is not 1/255", where=path)
    resample = said.get("resample", 3)
    if resample not in _FILTERS:
        raise WeightsError(f"resample {resample} is neither 2 (bilinear) nor 3 (bicubic)", where=path)
    result: dict[str, Any] = {"resample": _FILTERS[resample]}
    for name in ("image_mean", "image_std"):
        if name in said:
            result[name] = tuple(float(value) for value in said[name])
    return result


def _sides(size: Any) -> list[int]:
    """An entry `size` of any version: a number, or numbers by name."""
    if isinstance(size, Mapping):
        return [int(value) for name, value in size.items() if name in ("height", "width", "shortest_edge")]
    return [int(size)] if isinstance(size, int | float) else []
