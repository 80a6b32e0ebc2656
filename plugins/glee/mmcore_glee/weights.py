"""Names in published checkpoints <-> ours: GLEE in both directions, MaskDINO, CLIP, Swin and EVA02 for initialisation.

GLEE's published files are flat dictionaries with or without the prefix `glee.`; the trainer's own have them under
"model". Several published names hold one tensor: the box head nineteen times, the decoder's norm twice.
"""

from collections.abc import Iterable, Mapping

import torch
from mmcore.weights.maps import Rule, WeightMap
from torch import Tensor

from mmcore_glee.config import GleeConfig
from mmcore_glee.denoising import TABLES
from mmcore_glee.eva import rotary_table
from mmcore_glee.swin import relative_position_index

PREFIX = "glee."
TEACHER_NEW = ("text_encoder_teacher.*", "prompt.fuser.*")
"""What stage 2 adds to a stage-1 checkpoint."""
UNUSED = (
    "text_encoder*.text_model.embeddings.position_ids",
    "text_encoder_teacher.*",
    "sot_fuser.*",
    "pixel_mean",
    "pixel_std",
    "backbone.*.relative_position_index",
    "backbone.*.freqs_cos",
    "backbone.*.freqs_sin",
)
"""Published tensors that a model may have no use for: recomputed ones, and what later stages added."""
_LABELS = {table: f"{table}_label_enc" if not table.startswith("bdd") else table for table in TABLES}
_FUSION = {
    "gamma_v": "visual_scale",
    "gamma_l": "text_scale",
    "layer_norm_v.*": "visual_norm.*",
    "layer_norm_l.*": "text_norm.*",
    "attn.v_proj.*": "attention.query.*",
    "attn.l_proj.*": "attention.key.*",
    "attn.values_v_proj.*": "attention.visual_value.*",
    "attn.values_l_proj.*": "attention.text_value.*",
    "attn.out_v_proj.*": "attention.visual_out.*",
    "attn.out_l_proj.*": "attention.text_out.*",
}


def backbone_rules(config: GleeConfig) -> list[Rule]:
    """ResNet-50: detectron2's names and torchvision's. Swin and EVA02: the same names on both sides."""
    if config.backbone != "resnet":
        return [Rule("backbone.*", "backbone.*")]
    rules = [
        Rule("backbone.stem.conv1.weight", "backbone.conv1.weight"),
        Rule("backbone.stem.conv1.norm.*", "backbone.bn1.*"),
    ]
    for stage in range(1, 5):
        theirs, ours = f"backbone.res{stage + 1}.*", f"backbone.layer{stage}.*"
        for i in (1, 2, 3):
            rules.append(Rule(f"{theirs}.conv{i}.weight", f"{ours}.conv{i}.weight"))
            rules.append(Rule(f"{theirs}.conv{i}.norm.*", f"{ours}.bn{i}.*"))
        rules.append(Rule(f"{theirs}.shortcut.weight", f"{ours}.downsample.0.weight"))
        rules.append(Rule(f"{theirs}.shortcut.norm.*", f"{ours}.downsample.1.*"))
    return rules


def text_rules(level: str) -> list[Rule]:
    """CLIP and its teacher; transformers 5 drops the level `text_model`."""
    return [
        Rule("lang_projection", "text_projection"),
        Rule("text_encoder.text_model.*", f"text_encoder.{level}*"),
        Rule("text_encoder_teacher.text_model.*", f"text_encoder_teacher.{level}*"),
    ]


def pixel_decoder_rules() -> list[Rule]:
    """Pixel decoder and the fusion before it."""
    encoder = "pixel_decoder.transformer.encoder"
    fusion = [Rule(f"{encoder}.vl_layers.0.b_attn.{theirs}", f"fusion.{ours}") for theirs, ours in _FUSION.items()]
    return [
        Rule("pixel_decoder.input_proj.*", "pixel_decoder.input_proj.*"),
        Rule("pixel_decoder.transformer.level_embed", "pixel_decoder.level_embed"),
        *fusion,
        Rule(f"{encoder}.layers.*.linear1.*", "pixel_decoder.layers.*.ffn.linear1.*"),
        Rule(f"{encoder}.layers.*.linear2.*", "pixel_decoder.layers.*.ffn.linear2.*"),
        Rule(f"{encoder}.layers.*", "pixel_decoder.layers.*"),
        Rule("pixel_decoder.adapter_1.weight", "pixel_decoder.adapter.weight"),
        Rule("pixel_decoder.adapter_1.norm.*", "pixel_decoder.adapter_norm.*"),
        Rule("pixel_decoder.layer_1.weight", "pixel_decoder.smooth.weight"),
        Rule("pixel_decoder.layer_1.norm.*", "pixel_decoder.smooth_norm.*"),
        Rule("pixel_decoder.mask_features.*", "pixel_decoder.mask_features.*"),
    ]


def query_decoder_rules() -> list[Rule]:
    """Query decoder and visual prompts. Upstream's norm1 follows the cross-attention, norm2 the self-attention."""
    ours = "query_decoder"
    labels = [
        Rule(f"predictor.{theirs}.weight", f"{ours}.label_embed.{table}.weight") for table, theirs in _LABELS.items()
    ]
    return [
        Rule("predictor.category_embed", f"{ours}.class_proj"),
        Rule("predictor.input_proj.*", f"{ours}.input_proj.*"),
        Rule("predictor.query_feat.*", f"{ours}.query_content.*"),
        Rule("predictor.query_embed.*", f"{ours}.query_boxes.*"),
        Rule("predictor.enc_output.*", f"{ours}.proposal_proj.*"),
        Rule("predictor.enc_output_norm.*", f"{ours}.proposal_norm.*"),
        Rule("predictor.confidence_score.*", f"{ours}.confidence_mlp.*"),
        *labels,
        Rule("predictor.mask_embed.*", f"{ours}.mask_mlp.*"),
        Rule("predictor.decoder_norm.*", f"{ours}.norm.*"),
        Rule("predictor.decoder.layers.*.norm1.*", f"{ours}.layers.*.norm_cross.*"),
        Rule("predictor.decoder.layers.*.norm2.*", f"{ours}.layers.*.norm_self.*"),
        Rule("predictor.decoder.layers.*.norm3.*", f"{ours}.layers.*.norm_ffn.*"),
        Rule("predictor.decoder.layers.*.linear1.*", f"{ours}.layers.*.ffn.linear1.*"),
        Rule("predictor.decoder.layers.*.linear2.*", f"{ours}.layers.*.ffn.linear2.*"),
        Rule("predictor.decoder.layers.*", f"{ours}.layers.*"),
        Rule("predictor.decoder.ref_point_head.*", f"{ours}.reference_mlp.*"),
        Rule("predictor._bbox_embed.*", f"{ours}.box_mlp.*"),
        Rule("sot_fuser.*", "prompt.fuser.*"),
        Rule("mask_sptial_embed.*", "prompt.embed.*"),
        Rule("pn_indicator.*", "prompt.sign.*"),
    ]


def aliases(decoder_layers: int) -> tuple[tuple[str, str], ...]:
    """Published names that hold the tensor of another name."""
    boxes = [
        (f"predictor.{owner}bbox_embed.{i}.*", "predictor._bbox_embed.*")
        for owner in ("decoder.", "")
        for i in range(decoder_layers)
    ]
    return (("predictor.decoder.norm.*", "predictor.decoder_norm.*"), *boxes)


def upstream(config: GleeConfig, names: Iterable[str]) -> WeightMap:
    """The published GLEE format.

    Args:
        config: how many decoder layers share the box head.
        names: of our state dict, which tell how transformers names CLIP's parts.
    """
    level = "text_model." if any(name.startswith("text_encoder.text_model.") for name in names) else ""
    return WeightMap(
        rules=(*backbone_rules(config), *text_rules(level), *pixel_decoder_rules(), *query_decoder_rules()),
        prefix=PREFIX,
        aliases=aliases(config.decoder_layers),
        ignored=UNUSED,
        new=TEACHER_NEW,
        # Buffer of the published criterion: weights of "object" and "no object", never used.
        constants={
            "criterion.empty_weight": torch.tensor([1.0, 0.1]),
            **_position_indexes(config),
            **_rotary_tables(config),
        },
        label="published GLEE checkpoint",
    )


def _position_indexes(config: GleeConfig) -> dict[str, Tensor]:
    """Buffers of the published Swin that follow from the window's size."""
    if config.backbone != "swin":
        return {}
    index = relative_position_index(config.swin_window)
    blocks = [(i, j) for i, depth in enumerate(config.swin_depths) for j in range(depth)]
    return {f"{PREFIX}backbone.layers.{i}.blocks.{j}.attn.relative_position_index": index for i, j in blocks}


def _rotary_tables(config: GleeConfig) -> dict[str, Tensor]:
    """Buffers of the published EVA02: both tables, and again in every block that reads one."""
    if config.backbone != "eva":
        return {}
    head_dim = config.eva_width // config.eva_heads
    grids = {"win": config.eva_window, "glb": config.eva_image_size // config.eva_patch}
    tables = {kind: dict(zip(("cos", "sin"), rotary_table(side, head_dim))) for kind, side in grids.items()}
    owners = {f"rope_{kind}": kind for kind in grids} | {
        f"blocks.{i}.attn.rope": "win" if i in config.eva_window_blocks else "glb" for i in range(config.eva_depth)
    }
    net = f"{PREFIX}backbone.net"
    return {
        f"{net}.{owner}.freqs_{part}": table for owner, kind in owners.items() for part, table in tables[kind].items()
    }


def maskdino(config: GleeConfig) -> WeightMap:
    """MaskDINO checkpoints fill what fits of backbone, pixel decoder and query decoder; the rest stays as it is."""
    # MaskDINO is given with a ResNet-50 only.
    backbone = backbone_rules(config) if config.backbone == "resnet" else []
    return WeightMap(
        rules=(*backbone, *pixel_decoder_rules(), *query_decoder_rules()),
        prefix=PREFIX,
        aliases=aliases(config.decoder_layers),
        ignored=("*",),
        new=("*",),
        misfits=True,
        label="MaskDINO checkpoint",
    )


def clip(part: str, names: Iterable[str]) -> WeightMap:
    """The text half of a CLIP checkpoint, into the text encoder or its teacher.

    Args:
        part: `text_encoder` or `text_encoder_teacher`.
        names: of our state dict.
    """
    level = "text_model." if any(name.startswith(f"{part}.text_model.") for name in names) else ""
    return WeightMap(
        rules=(Rule("text_model.*", f"{part}.{level}*"),),
        ignored=("*position_ids", "vision_model.*", "visual_projection.*", "text_projection.*", "logit_scale"),
        new=("*",),
        label="CLIP checkpoint",
    )


def swin() -> WeightMap:
    """Swin's own checkpoints (microsoft/Swin-Transformer), into the backbone; the output norms start fresh."""
    return WeightMap(
        rules=(Rule("patch_embed.*", "backbone.patch_embed.*"), Rule("layers.*", "backbone.layers.*")),
        ignored=("norm.*", "head.*", "*attn_mask", "*.relative_position_index"),
        new=("*",),
        label="Swin checkpoint",
    )


def eva() -> WeightMap:
    """EVA02's own checkpoints (baaivision/EVA), as downloaded or converted for GLEE; the pyramid starts fresh."""
    kept = ("pos_embed", "patch_embed.*", "blocks.*")
    left_out = ("rope.*", "rope_win.*", "rope_glb.*", "cls_token", "mask_token", "lm_head.*", "norm.*", "head.*")
    return WeightMap(
        rules=tuple(Rule(f"{prefix}{part}", f"backbone.net.{part}") for part in kept for prefix in ("", "net.")),
        ignored=("*.rope.*", *(f"{prefix}{part}" for part in left_out for prefix in ("", "net."))),
        new=("*",),
        label="EVA02 checkpoint",
    )


BACKBONES = {"swin": swin, "eva": eva}
"""Published files that hold an image encoder alone, by what `kind` calls them."""


OWN = ("text_encoder", "predictor.category_embed", "sot_fuser.", "mask_sptial_embed.", "pn_indicator.")
"""Beginnings of names, without prefix, that GLEE has and MaskDINO has not."""
HELD = ("text_encoder.", "backbone.", "pixel_decoder.", "query_decoder.", "fusion.")
"""Beginnings of our names that a file of the whole model holds."""


def of_model(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the level "model" that some files put around everything."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def needed(tensors: Mapping[str, Tensor], new: Iterable[str]) -> list[str]:
    """What a file leaves new that a whole GLEE file would have held; nothing of a file that is MaskDINO's.

    Args:
        tensors: of the file, by published name.
        new: our names that it did not fill.
    """
    own = any(name.removeprefix(PREFIX).startswith(OWN) for name in tensors)
    return [name for name in new if name.startswith(HELD)] if own else []


def is_maskdino(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds both decoders, as every MaskDINO file does."""
    names = [name.removeprefix(PREFIX) for name in without_head(tensors)]
    return all(any(name.startswith(part) for name in names) for part in ("pixel_decoder.", "predictor.decoder."))


def kind(tensors: Mapping[str, Tensor]) -> str:
    """Which published file this is, told from its names: "upstream", "clip", "swin", "eva" or "maskdino"."""
    names = {name.removeprefix(PREFIX) for name in tensors}
    if "lang_projection" in names:
        return "upstream"
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return "clip"
    bare = {name.removeprefix("net.") for name in of_model(tensors)}
    if "patch_embed.proj.weight" in bare:
        return "eva" if "blocks.0.mlp.w1.weight" in bare else "swin"
    return "maskdino"


def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MaskDINO's own files keep the decoders one level deeper."""
    return {name.removeprefix("sem_seg_head."): tensor for name, tensor in tensors.items()}
