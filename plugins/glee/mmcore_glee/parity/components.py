"""Golden cases of single parts: backbone, fusion, deformable attention, pixel decoder, positions, text."""

from typing import Any

import torch
from mmcore.parity import Case, Check, NotRun, Report
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_glee.deformable import DeformableAttention
from mmcore_glee.fusion import Fusion
from mmcore_glee.layers import box_positions, inverse_sigmoid, sine_positions
from mmcore_glee.model import Glee
from mmcore_glee.parity.common import (
    close_all,
    fill,
    make_batch,
    published_tensors,
)
from mmcore_glee.parity.settings import config_of
from mmcore_glee.pixel_decoder import PixelDecoder
from mmcore_glee.prompt import VisualPrompt
from mmcore_glee.query_decoder import proposals
from mmcore_glee.text_encoder import hidden_states
from mmcore_glee.weights import pixel_decoder_rules

LEVELS = ("res2", "res3", "res4", "res5"), ("p3", "p4", "p5", "p6")
"""Names of a backbone's outputs, and of a feature pyramid's."""
DIM = 256
"""Channels of the published text and pixel features."""


def check_backbone(case: Case, report: Report) -> None:
    """All four outputs on images of odd sizes, channels subsampled."""
    model = Glee(config_of(case)).eval()
    fill(model.backbone, model.published(), published_tensors(case), "backbone.")
    for i, image in enumerate(_pictures(case)):
        features = model.backbone((image[None] - model.image_mean) / model.image_std)
        for name, feature in zip(LEVELS[model.config.backbone == "eva"], features, strict=True):
            report.equal(f"shapes.{i}.{name}", list(feature.shape), case.data["shapes"][f"{i}.{name}"])
            step = max(1, feature.shape[1] // 16)
            report.close(f"out.{i}.{name}", feature[0, ::step], case.tensors[f"out.{i}.{name}"], **_absolute(case))


def check_fusion(case: Case, report: Report) -> None:
    """Both directions of the early fusion, and the gradients of its inputs."""
    given, tensors = case.tensors, published_tensors(case)
    embed_dim = tensors["vlfuse.b_attn.attn.v_proj.weight"].shape[0]
    fusion = Fusion(given["in.visual"].shape[-1], embed_dim, 8, 0.0).eval()
    whole = {
        name.replace("vlfuse.", "pixel_decoder.transformer.encoder.vl_layers.0."): value
        for name, value in tensors.items()
    }
    fill(fusion, WeightMap(rules=tuple(pixel_decoder_rules())), whole, "fusion.")
    visual, text = (given[f"in.{name}"].clone().requires_grad_() for name in ("visual", "text"))
    fused, fused_text = fusion(visual, text), fusion.fuse_text(visual, text)
    (fused.square().mean() + fused_text.pow(3).mean()).backward()
    actual = {"out.visual": fused, "out.text": fused_text, "grad.visual": visual.grad, "grad.text": text.grad}
    close_all(report, actual, given, case.outputs(), **_limits(case))


def check_deformable(case: Case, report: Report) -> None:
    """Deformable attention for points and for boxes, and the gradients of query and value."""
    given, tensors = case.tensors, published_tensors(case)
    shapes = tuple((h, w) for h, w in case.data["levels"])
    dim = given["in.query"].shape[-1]
    attention = DeformableAttention(dim, len(shapes), case.data["heads"], case.data["points"])
    fill(attention, WeightMap(rules=(Rule("attn.*", "*"),)), tensors)
    for kind in ("2d", "4d"):
        query, value = (given[f"in.{name}"].clone().requires_grad_() for name in ("query", "value"))
        out = attention(query, given[f"in.ref_{kind}"], value, shapes)
        out.square().mean().backward()
        report.close(f"out.{kind}", out, given[f"out.{kind}"], **_limits(case))
        report.close(f"grad.query_{kind}", query.grad, given[f"grad.query_{kind}"], **_limits(case))
        report.close(f"grad.value_{kind}", value.grad, given[f"grad.value_{kind}"], **_limits(case))


def check_pixel_decoder(case: Case, report: Report) -> None:
    """Mask features and the four levels, with and without text."""
    config, tensors = config_of(case), published_tensors(case)
    shapes = case.data["features"]
    if tuple(sorted(shapes)) != LEVELS[config.backbone == "eva"]:
        raise NotRun("the case has the inputs of another backbone")
    decoder = PixelDecoder(config, [shape[1] for shape in shapes.values()]).eval()
    fusion = Fusion(config.hidden_dim, config.fusion_dim, config.fusion_heads, 0.0).eval()
    both = torch.nn.ModuleDict({"pixel_decoder": decoder, "fusion": fusion})
    fill(both, WeightMap(rules=tuple(pixel_decoder_rules()), prefix="glee."), tensors)
    features = [_standard_normal(f"input.{name}0", shape) * 0.3 for name, shape in shapes.items()]
    with torch.no_grad():
        pixels, sizes = decoder.project(features)
        for name, tokens in (("fused", fusion(pixels, case.tensors["in.text"])), ("plain", pixels)):
            encoded, mask_features = decoder(tokens, sizes, features[0])
            expected = {key: value for key, value in case.tensors.items() if key.startswith(f"out.{name}.")}
            actual = {f"out.{name}.mask_features": mask_features[:, ::8]}
            for i, level in enumerate(levels_of(encoded, sizes)):
                actual[f"out.{name}.level{i}"] = level[:, ::8]
            close_all(report, actual, expected, **_absolute(case))


def check_positions(case: Case, report: Report) -> None:
    """Sine encodings of pixels and boxes, the inverse sigmoid, and the proposals of every level."""
    given, limits = case.tensors, _limits(case)
    for name in case.outputs():
        if name.startswith("out.sine_"):
            height, width = map(int, name.removeprefix("out.sine_").split("x"))
            encoded = sine_positions(height, width, DIM, torch.device("cpu"))
            report.close(name, encoded.T.unflatten(1, (height, width))[::7], given[name], **limits)
    report.close("out.box_sine", box_positions(given["in.boxes"], DIM // 2), given["out.box_sine"], **limits)
    for name in ("boxes", "edge"):
        out = "out.inverse_sigmoid" + ("_edge" if name == "edge" else "")
        report.close(out, inverse_sigmoid(given[f"in.{name}"]), given[out], **limits)
    logits, valid = proposals(tuple((h, w) for h, w in case.data["levels"]), torch.device("cpu"))
    pick = given["pick"]
    finite = logits.isfinite()
    report.equal("out.proposals_finite", finite[pick].to(torch.uint8), given["out.proposals_finite"])
    report.close("out.proposals", logits.masked_fill(~finite, 0)[pick], given["out.proposals"], **limits)
    report.equal("out.proposals_valid_count", valid.sum(), given["out.proposals_valid_count"])
    report.equal("out.memory_kept", valid[pick].float(), given["out.memory_kept"])


def check_text(case: Case, report: Report) -> None:
    """Hidden states, pooled embeddings, fusion tokens and distance to the teacher; padded to 77 and to the longest."""
    model, given = Glee(config_of(case)), case.tensors
    for part in ("text_encoder", "text_encoder_teacher", "text_projection"):
        prefix = {"text_projection": "glee.lang_projection"}.get(part, f"glee.{part}.")
        tensors = {name: value for name, value in published_tensors(case).items() if name.startswith(prefix)}
        own = {name: value for name, value in model.state_dict().items() if name.startswith((f"{part}.", part + "\0"))}
        own |= {part: model.text_projection} if part == "text_projection" else {}
        state, _ = model.published().to_ours(tensors, own)
        model.load_state_dict(state, strict=False)
    for width in (given["input_ids"].shape[1], int(given["attention_mask"].sum(1).max())):
        case.tensors["input_ids"], case.tensors["attention_mask"] = (
            given[name][:, :width] for name in ("input_ids", "attention_mask")
        )
        batch = make_batch(case, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ((32, 32),), task="coco")
        text = model.train().encode_text(batch)
        hidden = hidden_states(model.text_encoder, batch.input_ids, batch.attention_mask)
        assert text.distance is not None
        actual = {
            "out.pooled": text.classes,
            "out.fusion_tokens": text.fusion[0],
            "out.dist_loss": (text.distance / batch.normalisers["text_tokens"]).reshape(1),
            "out.hidden_valid": hidden[batch.attention_mask.bool()],
        }
        close_all(report, actual, given, case.outputs(), **_limits(case))


def check_template(case: Case, report: Report) -> None:
    """Template tokens of rectangles, with and without the region drawn into the crop."""
    model = Glee(config_of(case)).eval()
    tensors, names = published_tensors(case), model.published()
    fill(model.backbone, names, {k: v for k, v in tensors.items() if k.startswith("glee.backbone.")}, "backbone.")
    prompt = model.prompt
    assert isinstance(prompt, VisualPrompt)
    assert prompt.fuser is not None
    rest = {k: v for k, v in tensors.items() if not k.startswith("glee.backbone.")}
    fill(prompt.fuser, names, rest, "prompt.fuser.")
    image = _pictures(case)[0]
    boxes = case.data["prompt_boxes_xyxy"]
    images = ((image - model.image_mean) / model.image_std).expand(len(boxes), -1, -1, -1)
    masks = torch.zeros(len(boxes), *image.shape[-2:], dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    for mode in ("mask", "point"):
        tokens = prompt.template(images, masks, mode, model.backbone)
        report.equal(f"tokens_shape.{mode}", list(tokens.shape), case.data["tokens_shape"])
        name = f"out.{mode}.tokens"
        report.close(name, tokens[:, ::16, ::8], case.tensors[name], **_absolute(case))


def levels_of(pixels: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Pixels of all levels as one map each."""
    split = pixels.split([h * w for h, w in shapes], dim=1)
    return [level.transpose(1, 2).unflatten(-1, shape) for level, shape in zip(split, shapes, strict=True)]


def _pictures(case: Case) -> list[Tensor]:
    from mmcore.parity import deterministic_image

    stored = case.data.get("images", {"0": case.data.get("image")})
    return [torch.from_numpy(deterministic_image(*stored[key])).permute(2, 0, 1) for key in sorted(stored, key=int)]


def _standard_normal(name: str, shape: list[int]) -> Tensor:
    from mmcore.parity import deterministic_array

    scale = float(torch.tensor(shape[1:]).prod()) ** 0.5
    return torch.from_numpy(deterministic_array(name, tuple(shape))) * scale


def _absolute(case: Case) -> dict[str, Any]:
    return {"absolute": case.data["tolerance"]["outputs_absolute"]}


def _limits(case: Case) -> dict[str, float]:
    tolerance = case.data["tolerance"]
    return {"absolute": tolerance["outputs_absolute"], "relative": tolerance.get("relative", 0.0)}


KINDS: dict[str, Check] = {
    "backbone_r50": check_backbone,
    "backbone_swin": check_backbone,
    "backbone_eva": check_backbone,
    "vlfuse": check_fusion,
    "msdeform": check_deformable,
    "pixel_decoder": check_pixel_decoder,
    "positions": check_positions,
    "text_features": check_text,
    "prompt_template": check_template,
}
