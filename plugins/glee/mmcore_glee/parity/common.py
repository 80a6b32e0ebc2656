"""What the checks share: the model a case describes, its batch, and its random numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcore.data.collate import pad_images, pad_masks, relative_boxes
from mmcore.errors import WeightsError
from mmcore.geometry.masks import decode_all
from mmcore.parity import Case, NotRun, Report, deterministic_array, deterministic_image
from mmcore.weights.maps import WeightMap
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LITE, PLUS, PRO, GleeConfig
from mmcore_glee.denoising import TABLE_OF_TASK
from mmcore_glee.model import Glee
from mmcore_glee.outputs import Draws
from mmcore_glee.vocabulary import known_lists
from mmcore_glee.vocabulary import names as vocabulary

OVERRIDES = {
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "encoder_layers",
    "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": "encoder_ffn",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "mask_dim",
    "MODEL.MaskDINO.DIM_FEEDFORWARD": "decoder_ffn",
    "MODEL.MaskDINO.DEC_LAYERS": "decoder_layers",
    "MODEL.MaskDINO.NUM_OBJECT_QUERIES": "num_queries",
    "MODEL.MaskDINO.TRAIN_NUM_POINTS": "mask_points",
    "MODEL.MaskDINO.OVERSAMPLE_RATIO": "oversample_ratio",
    "MODEL.MaskDINO.IMPORTANCE_SAMPLE_RATIO": "importance_ratio",
    "MODEL.MaskDINO.DN_NUM": "denoising_queries",
    "MODEL.MaskDINO.DN_NOISE_SCALE": "denoising_noise",
    "MODEL.LANGUAGE_BACKBONE.LANG_DIM": "text_dim",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "resnet_stem",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "resnet_out",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "resnet_width",
    "MODEL.SWIN.EMBED_DIM": "swin_width",
    "MODEL.SWIN.DEPTHS": "swin_depths",
    "MODEL.SWIN.NUM_HEADS": "swin_heads",
    "MODEL.SWIN.WINDOW_SIZE": "swin_window",
    "MODEL.SWIN.DROP_PATH_RATE": "swin_drop_path",
    "MODEL.EVA02.IMAGE_SIZE": "eva_image_size",
    "MODEL.EVA02.PATCH_SIZE": "eva_patch",
    "MODEL.EVA02.WINDOW_SIZE": "eva_window",
    "MODEL.EVA02.DMBED_DIM": "eva_width",
    "MODEL.EVA02.DEPTH": "eva_depth",
    "MODEL.EVA02.NUM_HEADS": "eva_heads",
    "MODEL.EVA02.MLP_RATIO": "eva_mlp_ratio",
    "MODEL.EVA02.DROP_PATH_RATE": "eva_drop_path",
    "MODEL.EVA02.WINDOW_BLOCK_INDEXES": "eva_window_blocks",
    "MODEL.MaskDINO.NHEADS": "encoder_heads",
    "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": "num_levels",
    "MODEL.VISUAL_PROMPT": "visual_prompt",
}
"""Configuration keys of the published code and ours."""
SIZES = {"Lite": LITE, "Plus": PLUS, "Pro": PRO}
TEXT = {"clip_frozen": "frozen", "clip_teacher": "teacher"}
OUTSIDE = ("SOLVER.", "INPUT.", "DATALOADER.", "DATASETS.", "TEST.", "MODEL.EVA02.CHECKPOINT")
"""Sections and entries that have no part in the model."""
CLIP = {
    "vocab_size": "text_vocabulary",
    "max_position_embeddings": "text_positions",
    "hidden_size": "text_dim",
    "intermediate_size": "text_ffn",
    "num_hidden_layers": "text_layers",
    "num_attention_heads": "text_heads",
}


def published_config(base: str) -> GleeConfig:
    """Our configuration of a published YAML file.

    Raises:
        NotRun: its backbone is not in this package.
    """
    size = next((size for size in SIZES if f"/{size}/" in f"/{base}"), None)
    if size is None:
        raise NotRun(f"{base} has a backbone that is not built yet")
    joint = "Stage2" in base or "Stage3" in base
    return SIZES[size].replace(text="teacher" if joint else "frozen", visual_prompt=joint)


def config_of(case: Case) -> GleeConfig:
    """The configuration of a case: a published file and its overrides.

    Raises:
        NotRun: the backbone is not in this package.
    """
    given = case.data["config"]
    if isinstance(given, str):
        return published_config(given)
    config = published_config(given["base_config"])
    clip = given.get("clip_text", {})
    changes = {ours: clip[theirs] for theirs, ours in CLIP.items() if theirs in clip}
    for key, value in given.get("overrides", {}).items():
        if key in OVERRIDES:
            changes[OVERRIDES[key]] = tuple(value) if isinstance(value, list) else value
        elif key == "MODEL.TEXT.ARCH" and value in TEXT:
            changes["text"] = TEXT[value]
        elif not key.startswith(OUTSIDE):
            raise NotRun(f"the case changes {key}, which has no counterpart here")
    return config.replace(**changes, fusion_dropout=0.0)


def model_of(case: Case) -> Glee:
    """The model of a case, filled with the deterministic weights under the published names."""
    model = Glee(config_of(case))
    fill(model, model.published(), published_tensors(case))
    return model


def published_tensors(case: Case) -> dict[str, Tensor]:
    """The tensors of a case's key list; those computed at construction are left out."""
    tensors: dict[str, Tensor] = {}
    keys: Mapping[str, Sequence[Any]] = case.companion(case.data["keys_file"])
    for name, (shape, _, kind) in keys.items():
        if kind == "fill":
            tensors[name] = torch.from_numpy(np.ascontiguousarray(deterministic_array(name, tuple(shape))))
    for name, (_, _, kind) in keys.items():
        if kind.startswith("alias:"):
            tensors[name] = tensors[kind.removeprefix("alias:")]
    return tensors


def fill(module: torch.nn.Module, names: WeightMap, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load published tensors into a part of the model through its weight map.

    Args:
        module: the part.
        names: the weight map of the whole model.
        tensors: published names and values of the part.
        prefix: of the part's names in the whole model.

    Raises:
        WeightsError: the tensors are not exactly those of the part.
    """
    own = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    state, report = names.to_ours(tensors, own)
    if report.new:
        raise WeightsError(f"the case lacks {report.new}")
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})


class StoredDraws(Draws):
    """Replays the random numbers of a case.

    Args:
        tensors: of the case.
        prefix: before `draw.`, such as "step0.".
        skip: permutations that come before those of the prompt's samples.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "", skip: int = 0) -> None:
        self.tensors = tensors
        self.prefix = f"{prefix}draw."
        self.skip = skip

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def match_points(self, sets: Sequence[str], num_images: int, num_points: int, device: torch.device) -> Tensor:
        """Stored points; an image without objects was never matched and has none."""
        nothing = torch.zeros(1, num_points, 2)
        stored = [[self._get(f"match.{name}.{i}", nothing)[0] for i in range(num_images)] for name in sets]
        return torch.stack([torch.stack(rows) for rows in stored]).to(device)

    def loss_points(
        self, sets: Sequence[str], num_pairs: int, num_oversampled: int, num_random: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Stored candidates and uniform points."""
        del num_pairs, num_oversampled, num_random
        first, second = ([self[f"points.{name}.{part}"] for name in sets] for part in ("oversampled", "random"))
        return torch.stack(first).to(device), torch.stack(second).to(device)

    def denoising(
        self, num_copies: int, num_classes: int, flip_probability: float, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stored noise; new labels are stored for the chosen copies only."""
        del num_classes
        flip = self["dn.label_probability"] < flip_probability
        labels = torch.zeros(num_copies, dtype=torch.int64)
        labels[flip] = self["dn.label_value"]
        return flip.to(device), labels.to(device), self["dn.box"].to(device)

    def prompt_keys(self, level: int, pixels: Tensor) -> Tensor:
        """Sort keys that give the stored permutations: one per image for a mean nobody uses, then one per level.

        Prompts of at most as many pixels as are sampled were not permuted and keep their order.
        """
        counts = pixels.sum(1).tolist()
        permuted = [i for i, count in enumerate(counts) if count > self.most_prompt_points]
        keys = torch.zeros(pixels.shape)
        for i, count in enumerate(counts):
            order = torch.arange(count)
            if i in permuted:
                order = self[f"randperm.{self.skip + (level + 1) * len(permuted) + permuted.index(i)}"].long()
            positions = pixels[i].nonzero()[:, 0]
            keys[i, positions[order]] = torch.linspace(1, 0.5, count) if count > 1 else torch.ones(count)
        return keys

    most_prompt_points = LITE.prompt_points

    def _get(self, name: str, default: Tensor) -> Tensor:
        return self.tensors.get(self.prefix + name, default)


def images_of(case: Case, suffix: str = "") -> list[Tensor]:
    """The pictures of a case, uint8 (3, height, width), in order."""
    pictures = case.data["images"]
    names = sorted(pictures, key=lambda name: int(name.split(".")[1])) if isinstance(pictures, dict) else []
    return [torch.from_numpy(deterministic_image(*pictures[name])).permute(2, 0, 1) for name in names if suffix in name]


def training_batch(case: Case) -> GleeBatch:
    """The batch of a training case, with boxes and masks from its inputs."""
    images = images_of(case)
    padded = pad_images(images)
    size = (padded.shape[-2], padded.shape[-1])
    given, count = case.tensors, len(images)
    boxes = [relative_boxes(given[f"in.{i}.boxes_xyxy"], size) for i in range(count)]
    masks = [_masks(case, i, len(boxes[i]), image) for i, image in enumerate(images)]
    labels = [given.get(f"target.{i}.labels", given[f"in.{i}.classes"]) for i in range(count)]
    prompts = None
    if mode := case.data.get("prompt_mode"):
        chosen = [entry[2][0] for entry in case.data["other_draws"] if entry[1] == "sample"]
        boxes = [b[[k]] for b, k in zip(boxes, chosen, strict=True)]
        masks = [None if m is None else m[[k]] for m, k in zip(masks, chosen, strict=True)]
        prompts = _prompts(case, masks, size)
    flat = None if masks[0] is None else pad_masks(masks, size)
    return make_batch(
        case,
        padded,
        tuple((image.shape[1], image.shape[2]) for image in images),
        task=task_of(case),
        labels=labels,
        boxes=boxes,
        masks=flat,
        prompt_masks=prompts,
        prompt_mode=mode or "mask",
    )


def make_batch(
    case: Case,
    images: Tensor,
    image_sizes: tuple[tuple[int, int], ...],
    *,
    task: str,
    labels: Sequence[Tensor] = (),
    boxes: Sequence[Tensor] = (),
    masks: Tensor | None = None,
    **rest: Any,
) -> GleeBatch:
    """A batch with the words of a case; without objects for inference."""
    grounding = task == "grounding"
    ids, mask = words_of(case, grounding)
    num_objects = tuple(map(len, labels)) or (0,) * len(images)
    return GleeBatch(
        source=case.name,
        draws=(),
        normalisers={
            "objects": float(sum(num_objects)),
            "batches": 1.0,
            "text_tokens": 0.0 if grounding else float(mask.sum()),
        },
        images=images,
        image_sizes=image_sizes,
        original_sizes=rest.pop("original_sizes", image_sizes),
        image_ids=tuple(range(len(images))),
        num_objects=num_objects,
        labels=torch.cat([*labels, torch.zeros(0, dtype=torch.int64)]),
        boxes_cxcywh=torch.cat([*boxes, torch.zeros(0, 4)]),
        masks=masks,
        task=task,
        names=() if grounding else names_of(case, len(ids)),
        input_ids=ids,
        attention_mask=mask,
        expressions=tuple(f"expression {i}" for i in range(len(images))) if grounding else None,
        **rest,
    )


def task_of(case: Case) -> str:
    """The task of a case, which its vocabulary tells where it is not given."""
    if "task" in case.data:
        return case.data["task"]
    names, known = tuple(case.data["names"]), known_lists()
    found = [task for task in TABLE_OF_TASK if task in known and vocabulary(task) == names]
    if not found:
        raise NotRun("the case names no task, and its vocabulary is none of the known ones")
    return found[0]


def words_of(case: Case, grounding: bool) -> tuple[Tensor, Tensor]:
    """Stored token ids and mask."""
    prefix = "grounding_" if grounding and "grounding_input_ids" in case.tensors else ""
    return case.tensors[f"{prefix}input_ids"].long(), case.tensors[f"{prefix}attention_mask"].long()


def names_of(case: Case, count: int) -> tuple[str, ...]:
    """The vocabulary; tasks without a list ask for "object"."""
    names = case.data.get("names")
    return tuple(names) if names else ("object",) * count


def _masks(case: Case, i: int, count: int, image: Tensor) -> Tensor | None:
    stored = case.data.get("masks_rle")
    if stored is None:
        return None
    rles = stored.get(f"in.{i}.masks", [])
    if count == 0 or not rles:
        return torch.zeros(0, image.shape[1], image.shape[2], dtype=torch.bool)
    return torch.from_numpy(decode_all(rles)).bool()


def _prompts(case: Case, masks: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """The region each prompt marks: stored for points, the object itself otherwise."""
    prompts = torch.zeros(len(masks), *size, dtype=torch.uint8)
    for i, mask in enumerate(masks):
        stored = case.data["masks_rle"].get(f"prompt.{i}.template_mask")
        region = (
            mask[0] if stored is None and mask is not None else torch.from_numpy(decode_all(stored or []))[0].bool()
        )
        prompts[i, : region.shape[0], : region.shape[1]] = region
    return prompts


def mask_logits(embed: Tensor, features: Tensor) -> Tensor:
    """Whole masks, which only parity checks need."""
    return torch.einsum("bqc,bchw->bqhw", embed, features)


def close_all(
    report: Report,
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
    only: Iterable[str] | None = None,
    **limits: Any,
) -> None:
    """Compare every stored name; one that is missing on our side fails."""
    for name in expected if only is None else only:
        report.close(name, actual.get(name, float("nan")), expected[name], **limits)
