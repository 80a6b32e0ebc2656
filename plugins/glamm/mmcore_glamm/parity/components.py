"""Modules alone: tower and projector, region encoder, SAM, mask losses."""

import re

import torch
from mmcore.errors import DataError
from mmcore.geometry.square import enlarge, frame
from mmcore.language.llava.names import llava_rules
from mmcore.losses.full_masks import pixel_losses
from mmcore.parity import Case, Report
from mmcore.vision.projectors import build_projector
from mmcore.vision.sam.config import SamConfig
from mmcore.vision.sam.model import Sam
from mmcore.vision.sam.names import sam_rules
from mmcore.vision.sam.pixels import normalised
from mmcore.vision.towers import build_tower
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor, nn

from mmcore_glamm import weights
from mmcore_glamm.parity.common import clip_pixels, deterministic, limits, sam_of, sam_pixels, tower_of
from mmcore_glamm.region_encoder import RegionConfig, RegionEncoder


def fill_part(module: nn.Module, map_: WeightMap, ours: str = "", theirs: str = "") -> None:
    """Give a part the deterministic values of its published names.

    Args:
        module: the part.
        map_: published names.
        ours: what the part is called within the whole model, with a dot.
        theirs: beginning of the reference's names that `map_` leaves out.
    """
    state = module.state_dict()
    for name, tensor in state.items():
        (published,) = map_.to_published({f"{ours}{name}": torch.empty(tensor.shape, device="meta")})
        state[name] = deterministic(f"{theirs}{published}", tensor.shape)
    module.load_state_dict(state)


def clip_levels(case: Case, report: Report) -> None:
    """The tower's states and the projector."""
    given = case.data["config"]
    tower, bounds = tower_of(given), limits(case)
    model, projector = build_tower(tower), build_projector("mlp2x_gelu", tower.channels, given["hidden"])
    rules = WeightMap(rules=llava_rules(tower))
    fill_part(model, rules, "tower.")
    fill_part(projector, rules, "projector.")
    seeds = [int(seed) for seed in re.findall(r"\d+", case.data["how"].split("seeds", 1)[1].split(";")[0])]
    levels = case.data["hidden_state_index_of_levels"]
    with torch.no_grad():
        wanted = [*levels, case.data["select_index"]]
        states = dict(zip(wanted, model(clip_pixels(seeds, tower.image_size), wanted), strict=True))
        selected = states[case.data["select_index"]]
        projected = projector(selected[:, 1:])
    rows, some = _steps(case, "projected"), _steps(case, "select")
    report.close("out.projected", projected[:, :: rows[0]], case.tensors["out.projected"], **bounds)
    report.close("out.select", selected[:, :: some[0], :: some[1]], case.tensors["out.select"], **bounds)
    row, channel = _steps(case, "level i")
    for number, level in enumerate(levels):
        report.close(
            f"out.level.{number}",
            states[level][:, 1:][:, ::row, ::channel],
            case.tensors[f"out.level.{number}"],
            **bounds,
        )


def _steps(case: Case, what: str) -> list[int]:
    """The steps of a sub-sampled output, from its description: "select [:, ::9, ::4]"."""
    text = case.data["how"].split(f"{what} ", 1)[1].split(";")[0].split(" level")[0]
    return [int(step) for step in re.findall(r"::(\d+)", text)]


def region_encoder(case: Case, report: Report) -> None:
    """The region encoder alone, in full precision and in the published one."""
    given, bounds = case.data["config"], limits(case, "out")
    channels, width = given["clip_hidden"], given["hidden"]
    config = RegionConfig()
    encoder = RegionEncoder(config, channels, width)
    rules = WeightMap(rules=tuple(Rule(f"{weights.REGION}{a}", b) for a, b in weights.REGION_NAMES.items()))
    fill_part(encoder, rules)
    boxes = [case.tensors[f"in.bboxes.{n}"] for n in range(sum(name.startswith("in.bboxes") for name in case.tensors))]
    images = len(boxes)
    found = re.search(r"\(B,(\d+),E\)", case.data["how"])
    patches = int(found.group(1)) if found else 576
    states = [_feature(case, level, (images, patches, channels)) for level in range(config.num_levels)]
    rows = torch.tensor([image for image, own in enumerate(boxes) for _ in own])
    flat = torch.cat(boxes)
    levels = encoder.fuse(states)
    crops = encoder.crops(levels, flat, rows)
    outputs = encoder.words(crops, flat).split([len(own) for own in boxes])
    for number, value in enumerate(outputs):
        report.close(f"out.{number}", value, case.tensors[f"out.{number}"], **bounds)
    for number, level in enumerate(levels):
        step = max(1, level.shape[-1] // 12)
        report.close(
            f"mid.fused.{number}",
            level[:, ::16, ::step, ::step],
            case.tensors[f"mid.fused.{number}"],
            **limits(case, "mid"),
        )
    for name, crop in (("first", crops[0]), ("last", crops[-1])):
        key = f"mid.roi_{name}_level_box0"
        report.close(key, crop[0, ::16], case.tensors[key], **limits(case, "mid"))
    prefix = _prefix(case, r"array\('([^']*)-w-i'")
    total = torch.stack([(v * deterministic(f"{prefix}-w-{n}", v.shape)).sum() for n, v in enumerate(outputs)]).sum()
    total.backward()
    for number, state in enumerate(states):
        assert state.grad is not None
        slopes = {f"grad.feat_norm.{number}": state.grad.norm()[None], f"grad.feat.{number}": state.grad[:, ::48, ::8]}
        for key, value in slopes.items():
            report.close(key, value, case.tensors[key], **limits(case, "grad"))
    _in_bf16(case, report, encoder, states, boxes)


def _in_bf16(case: Case, report: Report, encoder: RegionEncoder, states: list[Tensor], boxes: list[Tensor]) -> None:
    found = re.search(r"rtol (\S+) and atol (\S+)", case.data["bf16"])
    assert found is not None
    rows = torch.tensor([image for image, own in enumerate(boxes) for _ in own])
    with torch.no_grad():
        halved = encoder.bfloat16()
        words = halved([state.detach().bfloat16() for state in states], torch.cat(boxes), rows)
    for number, value in enumerate(words.split([len(own) for own in boxes])):
        report.close(
            f"bf16.out.{number}",
            value.float(),
            case.tensors[f"bf16.out.{number}"],
            relative=float(found.group(1)),
            absolute=float(found.group(2)),
        )


def _feature(case: Case, level: int, shape: tuple[int, int, int]) -> Tensor:
    name = _prefix(case, r"array\('([^']*)-l'") + f"-{level}"
    return (deterministic(name, shape) * (shape[1] * shape[2]) ** 0.5).requires_grad_(True)


def _prefix(case: Case, pattern: str) -> str:
    found = re.search(pattern, case.data["how"])
    assert found is not None, pattern
    return found.group(1)


def sam(case: Case, report: Report) -> None:
    """The image encoder, the decoder with a prompt from text, and masks at the picture's size."""
    given, size = case.data["config"], (case.data["H"], case.data["W"])
    config = sam_of(given, case.companion("keys.json"))
    model = Sam(config)
    rules = WeightMap(rules=tuple(sam_rules(weights.GROUNDING, iou_depth=config.iou_depth)))
    fill_part(model, rules, "sam.")
    seed = int(_prefix(case, r"image\((\d+),"))
    bounds = limits(case, "out")
    pixels = sam_pixels(seed, size, config.image_size)[None]
    report.equal("resized", list(frame(size, config.image_size).resized), case.data["resized"])
    with torch.no_grad():
        features = model.image_encoder(normalised(pixels))
        places, no_mask = model.prompt_encoder()
    report.close("out.image_embedding", features, case.tensors["out.image_embedding"], **bounds)
    report.close("out.dense_pe", places, case.tensors["out.dense_pe"], **bounds)
    prompts = case.tensors["in.text_embeds"].clone().requires_grad_(True)
    rows = torch.zeros(len(prompts), dtype=torch.int64)
    low = model.mask_decoder(features, prompts[:, 0], rows, places, no_mask)
    report.close("out.low_res", low[:, None], case.tensors["out.low_res"], **bounds)
    masks = enlarge(low, frame(size, config.image_size), config.image_size)
    report.close("out.masks", masks, case.tensors["out.masks"], **bounds)
    name = _prefix(case, r"array\('([^']*)', \[K,1,H,W\]\)")
    (masks[:, None] * deterministic(name, (len(masks), 1, *size))).sum().backward()
    report.close("grad.text_embeds", prompts.grad, case.tensors["grad.text_embeds"], **limits(case, "grad"))
    _quality(case, report, model, features, prompts.detach(), config)


def _quality(case: Case, report: Report, model: Sam, features: Tensor, prompts: Tensor, config: SamConfig) -> None:
    """What GLaMM does not read: the other masks and SAM's own estimate of their quality, by transformers' forward."""
    from transformers.models.sam.modeling_sam import SamMaskDecoder

    places, no_mask = model.prompt_encoder()
    dense = no_mask[..., None, None].expand(1, -1, config.grid, config.grid)
    for several, suffix in ((False, ""), (True, "_multi")):
        stored = case.tensors[f"out.low_res{suffix}"]
        count = len(prompts)
        with torch.no_grad():
            low, iou = SamMaskDecoder.forward(
                model.mask_decoder, features, places, prompts[None], dense, multimask_output=several
            )
        report.close(f"out.low_res{suffix}", low[0, : len(stored)], stored, **limits(case, "out"))
        report.close(f"out.iou{suffix}", iou[0, :count], case.tensors[f"out.iou{suffix}"], **limits(case, "out"))


def losses(case: Case, report: Report) -> None:
    """BCE and dice of some masks, divided by several counts."""
    predicted, targets = case.tensors["in.pred"], case.tensors["in.target"].float()
    (bce, dice), _ = pixel_losses(predicted, targets, wanted=False)
    for name, value in case.tensors.items():
        if found := re.fullmatch(r"out\.(bce|dice)_count(\d+)", name):
            total = bce if found.group(1) == "bce" else dice
            report.close(name, total[None] / (int(found.group(2)) + 1e-8), value, **limits(case))
    # The gradients that are computed by hand, against those of the formulas.
    free = predicted.double().requires_grad_(True)
    (bce, dice), _ = pixel_losses(free, targets.double(), wanted=False)
    _, slopes = pixel_losses(predicted.double(), targets.double(), wanted=True)
    for name, total, slope in (("bce", bce, slopes[0]), ("dice", dice, slopes[1])):
        (expected,) = torch.autograd.grad(total, free, retain_graph=True)
        report.close(f"slope of {name}", slope, expected, absolute=1e-9, relative=1e-6)


PARTS = {"clip_levels": clip_levels, "region_encoder": region_encoder, "sam": sam, "losses": losses}


def component(case: Case, report: Report) -> None:
    """The module that the end of a case's name says.

    Raises:
        DataError: there is no such part.
    """
    part = next((check for end, check in PARTS.items() if case.name.endswith(end)), None)
    if part is None:
        raise DataError(f"no check for a part like {case.name}", known=PARTS)
    part(case, report)


KINDS = {"component": component}
