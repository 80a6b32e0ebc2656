"""Golden cases of the teachers and of the depth decoder: prepared pixels, positions, targets, pictures."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcore.parity import Case, Check, Report, deterministic_array, deterministic_image
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_visper.dpt import DepthDecoder
from mmcore_visper.teachers.depth import DepthNetwork, DepthTeacher, dinov2_names, resample_positions
from mmcore_visper.teachers.gen import SIZES, GenTeacher
from mmcore_visper.teachers.seg import SegTeacher


def depth_teacher(case: Case, report: Report) -> None:
    """Prepared pixels, positions at the new grid, the mean of the taps and the last tap."""
    given, limits = case.data["dino_config"], tolerance(case)
    teacher = DepthTeacher(
        width=given["embed_dim"],
        depth=given["depth"],
        num_heads=given["num_heads"],
        mlp_ratio=given["mlp_ratio"],
        image_size=given["img_size"],
        patch_size=given["patch_size"],
        taps=tuple(given["taps"]),
        precision="fp32",
    )
    tensors = filled(case, "pretrained.")
    network = teacher.build(tensors, case.name)
    pixels = teacher.inputs(picture(case))[None]
    prepared = network.pixels(pixels)
    report.close("input_probe", prepared[..., ::16, ::16], case.tensors["input_probe"], **limits)
    if "input_mean_std" in case.tensors:
        spread = torch.stack([prepared[0].mean((1, 2)), prepared[0].std((1, 2))])
        report.close("input_mean_std", spread, case.tensors["input_mean_std"], **limits)
    positions = resample_positions(tensors["pretrained.pos_embed"], teacher.grid)
    report.close("pos_probe", positions[:, ::12], case.tensors["pos_probe"], **limits)
    with torch.no_grad():
        report.close("target", network(pixels)[:, ::6], case.tensors["target"], **limits)
        last = DepthNetwork(_last_only(teacher), network.backbone)
        report.close("target_probe_mode", last(pixels)[:, ::6], case.tensors["target_probe_mode"], **limits)
    names_survive(report, dinov2_names(teacher.depth), case)


def seg_teacher(case: Case, report: Report) -> None:
    """Prepared pixels and the target map."""
    given, processor, limits = case.data["swin_config"], case.data["processor"], tolerance(case)
    teacher = SegTeacher(
        embed_dim=given["embed_dim"],
        depths=tuple(given["depths"]),
        num_heads=tuple(given["num_heads"]),
        window_size=given["window_size"],
        shortest=processor["size"]["shortest_edge"],
        longest=processor["size"]["longest_edge"],
        mean=tuple(processor["image_mean"]),
        std=tuple(processor["image_std"]),
        precision="fp32",
    )
    network = teacher.build(filled(case), case.name)
    pixels = teacher.inputs(picture(case))[None]
    prepared = network.pixels(pixels)
    report.equal("pixel_shape", list(prepared.shape), case.tensors["pixel_shape"])
    report.close("pixel_probe", prepared[..., ::40, ::40], case.tensors["pixel_probe"], **limits)
    with torch.no_grad():
        report.close("target", network(pixels), case.tensors["target"], **limits)


def gen_teacher(case: Case, report: Report) -> None:
    """Prepared pixels and the embedding."""
    limits = tolerance(case)
    sizes: dict[str, Any] = {name: case.data["clip_config"][name] for name in SIZES if name in case.data["clip_config"]}
    teacher = GenTeacher(**sizes, precision="fp32")
    network = teacher.build(_clip_tensors(teacher), case.name)
    pixels = teacher.inputs(picture(case))[None]
    report.close("pixel_probe", network.pixels(pixels)[..., ::16, ::16], case.tensors["pixel_probe"], **limits)
    with torch.no_grad():
        report.close("image_embeds", network(pixels)[:, 0], case.tensors["image_embeds"], **limits)


def depth_decoder(case: Case, report: Report) -> None:
    """The depth picture from four levels."""
    tensors = filled(case)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    out_channels = [shapes[f"depth_head.projects.{level}.weight"][0] for level in range(4)]
    in_channels = shapes["depth_head.projects.0.weight"][1]
    decoder = DepthDecoder(in_channels, shapes["depth_head.scratch.layer1_rn.weight"][0], out_channels)
    decoder.load_state_dict(tensors)
    template, size = re.match(r"unit\('(.+)<i>',(\[.+\])\)", case.data["inputs"]["features"]).groups()  # type: ignore[union-attr]
    shape = tuple(int(length) for length in re.findall(r"\d+", size))
    with torch.no_grad():
        depth = decoder([unit(f"{template}{level}", shape) for level in range(4)])
    report.close("depth", depth[:, ::6, ::6], case.tensors["depth"], **tolerance(case))


def picture(case: Case) -> np.ndarray:
    """The case's image: `image(seed,height,width)`."""
    seed, height, width = map(int, re.findall(r"\d+", case.data["inputs"]["image"]))
    return deterministic_image(seed, height, width)


def unit(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers of unit size: `unit(name, shape)` of the cases."""
    flat = deterministic_array(name, (int(np.prod(shape)),)) * np.float32(50)
    return torch.from_numpy(flat.reshape(shape))


def filled(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """The floating-point tensors of the case's key list, filled under `prefix` + name."""
    keys = [(prefix + name, tuple(shape)) for name, shape in case.data["state_keys"]]
    return {
        name: torch.from_numpy(np.ascontiguousarray(deterministic_array(name, shape)))
        for name, shape in keys
        if not name.endswith("relative_position_index")
    }


def tolerance(case: Case) -> dict[str, float]:
    """The case's limits as `Report.close` takes them."""
    return {"absolute": case.data["tolerance"]["atol"], "relative": case.data["tolerance"]["rtol"]}


def names_survive(report: Report, names: WeightMap, case: Case) -> None:
    """Every published name has a place."""
    known = [name for name, _ in case.data["state_keys"]]
    lost = [name for name in known if not any(_matches(rule, name) for rule in names.rules)]
    report.equal("published names without a place", lost, [])


def _matches(rule: Rule, name: str) -> bool:
    name = name.replace(".attn.qkv.", ".attn.query.")
    return bool(re.fullmatch(re.escape(str(rule.ours)).replace(r"\*", ".*"), name))


def _last_only(teacher: DepthTeacher) -> DepthTeacher:
    from dataclasses import replace

    return replace(teacher, last_only=True)


def _clip_tensors(teacher: GenTeacher) -> Mapping[str, Tensor]:
    """A CLIP vision tower's tensors, filled; the case lists no keys."""
    width, inner, side = teacher.hidden_size, teacher.intermediate_size, teacher.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, side, side),
        "embeddings.position_embedding.weight": ((teacher.image_size // side) ** 2 + 1, width),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(teacher.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        linears = {f"self_attn.{part}_proj": (width, width) for part in "kvq"}
        linears |= {"self_attn.out_proj": (width, width), "mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for part, shape in linears.items():
            shapes |= {f"{layer}.{part}.weight": shape, f"{layer}.{part}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
    named = {f"vision_model.{name}": shape for name, shape in shapes.items()}
    named["visual_projection.weight"] = (teacher.projection_dim, width)
    return {name: torch.from_numpy(np.asarray(deterministic_array(name, shape))) for name, shape in named.items()}


KINDS: dict[str, Check] = {
    "comp_depth_teacher": depth_teacher,
    "comp_seg_teacher": seg_teacher,
    "comp_gen_teacher": gen_teacher,
    "comp_dpt": depth_decoder,
}
