"""Golden parts of Griffon by themselves: positions, projectors, the towers, pictures, stopping."""

import re

import numpy as np
import torch
from mmcore.parity import Case, Check, Report, deterministic_image
from mmcore.vision.clip_images import ClipImages, pad_to_square
from mmcore.vision.clip_vit import ClipVit, resize_positions
from mmcore.vision.projectors import build_projector, projected_tokens
from PIL import Image
from torch import Tensor

from mmcore_griffon.parity.common import config_of, deterministic, limits_of, model_of


def check_positions(case: Case, report: Report) -> None:
    """CLIP's positions at other resolutions."""
    for one in case.data["cases"]:
        number = one["index"]
        stored = {name: t for name, t in case.tensors.items() if re.match(rf"out{number}(_|$)", name)}
        given = case.tensors[f"in{number}"]
        report.close(f"in{number}", deterministic(f"pos{number}.weight", given.shape), given)
        grid = one["new_size"] // one["patch_size"]
        report.equal(f"new_grid {number}", grid, one["new_grid"])
        resized = resize_positions(given, grid)
        report.equal(f"position_ids_shape {number}", [1, len(resized)], one["position_ids_shape"])
        for name, expected in stored.items():
            report.close(name, _probe(name, resized), expected, **limits_of(case))


def _probe(name: str, rows: Tensor) -> Tensor:
    """Whole, every n-th row, or the sum of every row, as the quantity's name says."""
    if step := re.search(r"every_(\d+)\w\w_row", name):
        return rows[:: int(step.group(1))]
    return rows.sum(1) if name.endswith("row_sums") else rows


def check_projectors(case: Case, report: Report) -> None:
    """Every published projector: names, shapes, rows."""
    for one in case.data["cases"]:
        kind, grid = one["projector"], one["grid"]
        name = f"{kind}_{grid}"
        projector = build_projector(kind, one["in_channels"], one["out_channels"])
        own = projector.state_dict()
        report.equal(f"keys {name}", {key: list(t.shape) for key, t in own.items()}, one["keys"])
        fixed = {"pos_embed"} if kind == "resampler" else set()
        filled = {k: t if k in fixed else deterministic(f"mm_projector.{k}", t.shape) for k, t in own.items()}
        projector.load_state_dict(filled)
        given = case.tensors[f"in_{name}"]
        report.close(f"in_{name}", deterministic(f"x.{kind}.{grid}.weight", given.shape), given)
        with torch.no_grad():
            out = projector(given)
        report.equal(f"out_shape {name}", list(out.shape), one["out_shape"])
        report.equal(f"projected_tokens {name}", projected_tokens(kind, grid), out.shape[1])
        stored = case.tensors[f"out_{name}"]
        report.close(f"out_{name}", out[:, :: out.shape[1] // stored.shape[1]], stored, **limits_of(case))


def check_tower(case: Case, report: Report) -> None:
    """What is read of the tower, projected rows, and the region tokenizer."""
    model, given = model_of(config_of(case)), case.tensors
    report.covers("images", "regions")
    tower = model.tower
    assert isinstance(tower, ClipVit)
    with torch.no_grad():
        state, last = tower.config.state(tower.config.select_layer), tower.config.num_layers
        hidden = tower.hidden_states(given["images"], (state, last))
        assert model.region is not None
        actual = {
            "tower_patch": hidden[state][:, 1:],
            "tower_cls_patch": hidden[state],
            "last_hidden": hidden[last],
            "encode_images": model.see(given["images"]),
            "region_tokens": model.region(given["regions"]),
        }
        report.close("the tower alone", tower(given["images"]), tower.select(hidden[state]))
    for name in case.outputs():
        if name not in ("images", "regions"):
            report.close(name, actual[name], given[name], **limits_of(case))


def check_pictures(case: Case, report: Report) -> None:
    """Squashed and normalised pictures at two sizes, and padding with the mean colour."""
    for one in case.data["cases"]:
        number, (seed, height, width) = one["index"], one["source"]
        rgb = deterministic_image(seed, height, width)
        limits = {"absolute": 1e-5}
        small = ClipImages(one["small_size"], "squash", resample="bilinear")(rgb)
        report.close(f"small{number}", small, case.tensors[f"small{number}"], **limits)
        full = ClipImages(one["full_size"], "squash", resample="bilinear")(rgb)
        step = _every(case, "full{i}_probe")
        report.close(f"full{number}_probe", full[:, ::step, ::step], case.tensors[f"full{number}_probe"], **limits)
        report.close(f"full_mean {number}", full.double().mean(), one["full_mean"], **limits)
        report.close(f"full_std {number}", full.double().std(), one["full_std"], absolute=1e-5)
        rows = one["full_sum_rows"]
        sums = full.sum((0, 2))[:: full.shape[1] // len(rows)]
        report.close(f"full_sum_rows {number}", sums, rows, absolute=1e-5, relative=1e-5)
        padded = pad_to_square(Image.fromarray(rgb))
        report.equal(f"expand2square_size {number}", list(padded.size), one["expand2square_size"])
        stored, every = case.tensors[f"pad{number}"], _every(case, "pad{i}")
        report.equal(f"pad{number}", np.asarray(padded)[::every, ::every], stored)


def _every(case: Case, name: str) -> int:
    """The step of a sub-sampled output, from its description: "pad{i}: every 5th pixel"."""
    found = re.search(rf"{re.escape(name)}: every (\d+)", case.data["outputs"])
    return int(found.group(1)) if found else 1


KINDS: dict[str, Check] = {
    "pos_embed_resize": check_positions,
    "projectors": check_projectors,
    "vision_tower": check_tower,
    "image_preprocess": check_pictures,
}
