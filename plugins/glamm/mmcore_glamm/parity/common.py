"""What the checks share: the model a case describes, its weights under published names, its pictures and batches."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmcore.contract.recipe import Lora
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Draw, Encoded, Region, VisualPrompt
from mmcore.geometry.square import frame
from mmcore.language.sizes import LLAMA2_7B
from mmcore.parity import Case, Report, deterministic_array, deterministic_image
from mmcore.train.lora import add_lora, without_base
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.pixels import Pixels
from mmcore.vision.sam.config import SamConfig
from torch import Tensor

from mmcore_glamm import weights
from mmcore_glamm.batch import GlammBatch, collator_of
from mmcore_glamm.config import GlammConfig, Published
from mmcore_glamm.model import Glamm
from mmcore_glamm.tokens import TokenIds

TRAINED = ("lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs", "region_encoder", "lora_")
"""Published names that hold one of these are trained; the released code looks for them as parts of names."""
GROUNDING = weights.GROUNDING
Keys = Mapping[str, Any]


class Built(NamedTuple):
    """A model of a case, and what it was filled with."""

    model: Glamm
    keys: Keys
    """Published name -> shape and type of the reference's state dict."""


def keys_of(case: Case) -> Keys:
    """The key list of a case, or of the case that it names."""
    own = case.folder / "keys.json"
    path = own if own.exists() else case.folder.parent / case.data["keys_from"] / "keys.json"
    return json.loads(path.read_text())


def shape_of(keys: Keys, name: str) -> tuple[int, ...]:
    """The shape of a published tensor."""
    return tuple(keys[name][0])


def sam_of(given: Mapping[str, Any], keys: Keys | None = None) -> SamConfig:
    """Sizes of SAM; those that a case does not say are read off its key list."""
    shapes = keys or {}
    head = f"{GROUNDING}mask_decoder.iou_prediction_head.layers."
    depth = sum(name.startswith(head) and name.endswith(".weight") for name in shapes)
    mlp = f"{GROUNDING}image_encoder.blocks.0.mlp.lin1.weight"
    layers = [n for n in shapes if n.startswith(f"{GROUNDING}mask_decoder.transformer.layers.") and "norm1.w" in n]
    prompt = f"{GROUNDING}prompt_encoder.mask_downscaling.3.weight"
    tokens = f"{GROUNDING}mask_decoder.mask_tokens.weight"
    return SamConfig(
        image_size=given["sam_image_size"],
        patch_size=given["sam_patch"],
        hidden_size=given["sam_dim"],
        num_layers=given["sam_depth"],
        num_heads=given["sam_heads"],
        mlp_ratio=shape_of(shapes, mlp)[0] / given["sam_dim"] if mlp in shapes else 4.0,
        window_size=given["sam_window"],
        global_layers=tuple(given["sam_global"]),
        out_channels=given["out_dim"],
        decoder_layers=len(layers) or 2,
        decoder_heads=given["sam_dec_heads"],
        decoder_mlp=given["sam_dec_mlp"],
        mask_prompt_channels=shape_of(shapes, prompt)[0] if prompt in shapes else 16,
        num_multimask=shape_of(shapes, tokens)[0] - 1 if tokens in shapes else 3,
        iou_hidden=shape_of(shapes, f"{head}0.weight")[0] if depth else given["out_dim"],
        iou_depth=depth or 3,
    )


def tower_of(given: Mapping[str, Any]) -> ClipTower:
    """The small tower of a case."""
    return ClipTower(
        hidden_size=given["clip_hidden"],
        intermediate_size=given["clip_inter"],
        num_layers=given["clip_layers"],
        num_heads=given["clip_heads"],
        image_size=given["clip_image"],
        patch_size=given["clip_patch"],
    )


def config_of(case: Case, keys: Keys | None = None, **changes: Any) -> GlammConfig:
    """The configuration of a case."""
    given = case.data["config"]
    language = {
        **LLAMA2_7B,
        "vocab_size": given["vocab"],
        "hidden_size": given["hidden"],
        "intermediate_size": given["inter"],
        "num_hidden_layers": given["layers"],
        "num_attention_heads": given["heads"],
        "num_key_value_heads": given.get("kv_heads", given["heads"]),
        "max_position_embeddings": given["max_pos"],
    }
    config = GlammConfig(
        language=language,
        tower=tower_of(given),
        sam=sam_of(given, keys),
        attention="eager",
        published=Published(cut_masks=True),
    )
    return config.replace(**changes)


def loss_weights(case: Case) -> dict[str, float]:
    """Factors of the losses in a case."""
    given = case.data["config"]
    names = {"text": "ce", "mask_bce": "bce", "mask_dice": "dice"}
    return {ours: given[f"{theirs}_loss_weight"] for ours, theirs in names.items()}


def ids_of(case: Case) -> TokenIds:
    """Vocabulary ids of a case."""
    return TokenIds(case.data["config"]["bbox_token_idx"], case.data["config"]["seg_token_idx"])


def built(case: Case, *, keys: Keys | None = None, **changes: Any) -> Built:
    """The model of a case with deterministic weights under the reference's names, adapters included."""
    keys = keys or keys_of(case)
    model = Glamm(config_of(case, keys, **changes), loss_weights(case))
    adapters = case.data.get("lora")
    if adapters and any(".lora_" in name for name in keys):
        targets = sorted({name.rsplit(".lora_", 1)[0] for name in keys if ".lora_" in name})
        lora = Lora(
            rank=adapters["r"],
            alpha=float(adapters["alpha"]),
            dropout=float(adapters.get("dropout", 0.0)),
            targets=tuple(f"language.{name}" for name in targets),
        )
        add_lora(model, lora)
    fill(model, keys)
    return Built(model, keys)


def published_names(model: Glamm) -> dict[str, str]:
    """Our name of every parameter, adapters included -> the reference's."""
    rules = model.published()
    names = {}
    for name, tensor in model.state_dict().items():
        bare = without_base(name)
        found = rules.to_published({bare: torch.empty(tensor.shape, device="meta")})
        names[name] = next(iter(found))
    return names


def fill(model: Glamm, keys: Keys) -> None:
    """Give every parameter the deterministic value of its published name; both sides have to be covered whole.

    Raises:
        AssertionError: names or shapes differ.
    """
    names = published_names(model)
    stored = {name for name in keys if not name.endswith((".inv_freq", ".position_ids"))}
    assert set(names.values()) == stored, sorted(set(names.values()) ^ stored)[:5]
    state = model.state_dict()
    for ours, theirs in names.items():
        assert tuple(state[ours].shape) == shape_of(keys, theirs), theirs
    model.load_state_dict({ours: deterministic(theirs, shape_of(keys, theirs)) for ours, theirs in names.items()})


def train_like(model: Glamm) -> dict[str, str]:
    """Freeze as the released trainer does; returns our names of what trains, with the published ones."""
    names = published_names(model)
    for ours, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in names[ours] for part in TRAINED))
    return {ours: names[ours] for ours, parameter in model.named_parameters() if parameter.requires_grad}


def deterministic(name: str, shape: Sequence[int]) -> Tensor:
    """The golden weight of this name."""
    return torch.from_numpy(np.ascontiguousarray(deterministic_array(name, tuple(shape))))


def clip_pixels(seeds: Sequence[int], side: int) -> Tensor:
    """(images, 3, side, side): golden pictures as the tower takes them."""
    pictures = [torch.from_numpy(deterministic_image(seed, side, side)).permute(2, 0, 1) for seed in seeds]
    return Pixels(CLIP_MEAN, CLIP_STD)(torch.stack(pictures))


def sam_pixels(seed: int, size: tuple[int, int], side: int) -> Tensor:
    """(4, side, side): a golden picture that is already of the resized size, padded."""
    height, width = frame(size, side).resized
    result = torch.zeros(4, side, side, dtype=torch.uint8)
    result[:3, :height, :width] = torch.from_numpy(deterministic_image(seed, height, width)).permute(2, 0, 1)
    result[3, :height, :width] = 1
    return result


class Picture(NamedTuple):
    """One picture of a stored batch."""

    clip_seed: int
    sam_seed: int | None = None
    size: tuple[int, int] = (0, 0)


def batch_of(
    case: Case, config: GlammConfig, pictures: Sequence[Picture], prefix: str = "in.", *, boxes: bool = True
) -> GlammBatch:
    """A stored batch through the collator; without boxes `<bbox>` is a word like others."""
    stored, ids = case.tensors, ids_of(case)
    ids = ids if boxes else ids._replace(box=-1)
    rows, labels = stored[f"{prefix}input_ids"], stored.get(f"{prefix}labels")
    valid = stored.get(f"{prefix}attention_masks")
    offset = stored.get(f"{prefix}offset", torch.arange(len(rows) + 1)).tolist()
    clip = clip_pixels([picture.clip_seed for picture in pictures], config.image_size)
    samples = []
    for number, picture in enumerate(pictures):
        corners, masks = stored.get(f"{prefix}bboxes.{number}"), stored.get(f"{prefix}masks.{number}")
        taken, size = 0, picture.size if picture.sam_seed is not None else (1, 1)
        for row in range(offset[number], offset[number + 1]):
            keep = torch.ones_like(rows[row], dtype=torch.bool) if valid is None else valid[row].bool()
            learned = labels[row][keep] if labels is not None else torch.full_like(rows[row][keep], -100)
            segs = int((rows[row][keep] == ids.seg).sum())
            last = row + 1 == offset[number + 1]
            own = () if masks is None else masks[taken : None if last else taken + segs]
            taken += segs
            samples.append(
                ConversationSample(
                    encoded=Encoded(rows[row][keep].numpy(), learned.numpy()),
                    turns=(),
                    images=_images(clip[number], picture, config),
                    draw=Draw(case.name, row, 0),
                    image_id=number,
                    original_size=size,
                    regions=tuple(Region(mask=mask) for mask in own),
                    prompts=() if corners is None else tuple(_box(box, size) for box in corners),
                )
            )
    return collator_of(config, ids, 1 << 30)(samples, 0)


def _box(fractions: Tensor, size: tuple[int, int]) -> VisualPrompt:
    """A stored box, whose coordinates are fractions, as a person's in pixels."""
    return VisualPrompt("box", fractions.view(2, 2) * torch.tensor([size[1], size[0]]))


def _images(clip: Tensor, picture: Picture, config: GlammConfig) -> dict[str, tuple[Tensor, ...]]:
    if picture.sam_seed is None:
        return {MAIN: (clip,)}
    return {MAIN: (clip,), SEGMENT: (sam_pixels(picture.sam_seed, picture.size, config.sam.image_size),)}


def pictures_of(case: Case) -> list[Picture]:
    """The pictures that a case lists."""
    if "specs" in case.data:
        return [Picture(one["clip_seed"], one["sam_seed"], (one["H"], one["W"])) for one in case.data["specs"]]
    return [Picture(seed) for seed in case.data["clip_seeds"]]


def losses_of(model: Glamm, batch: GlammBatch) -> dict[str, Tensor]:
    """The reference's five numbers, normalised as it does: within the micro-batch."""
    found = model(batch)
    zero = torch.zeros(())
    parts = {name: loss.total / max(batch.normalisers[loss.per], 1.0) for name, loss in found.items()}
    bce, dice = parts.get("mask_bce", zero), parts.get("mask_dice", zero)
    return {
        "loss": parts["text"] + bce + dice,
        "ce_loss": parts["text"],
        "mask_bce_loss": bce,
        "mask_dice_loss": dice,
        "mask_loss": bce + dice,
    }


def limits(case: Case, kind: str | None = None) -> dict[str, float]:
    """The case's tolerances for a kind of quantity."""
    told = case.data["tolerances"]
    told = told.get(kind, told) if kind else told
    return {"absolute": told.get("atol", 0.0), "relative": told.get("rtol", 0.0)}


def close_all(report: Report, actual: Mapping[str, Any], expected: Mapping[str, Any], **bounds: Any) -> None:
    """Compare every expected name; one that is missing on our side fails."""
    for name in expected:
        report.close(name, actual.get(name, float("nan")), expected[name], **bounds)


def beside(case: Case, name: str) -> Case:
    """Another case of the same folder."""
    return Case(Path(case.folder).parent / name)
