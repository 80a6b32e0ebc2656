"""The published configuration of a case as ours: what each of its keys means here.

Every key of the published `config.py` is one of four kinds, and the test of this file has the whole list: an entry of
ours says the same (`SETTINGS`, `PARTS`, `TRANSLATED`); another value would be another network, or none that runs in the
published code either (`FIXED`); the case's own data say it (`TOLD`); nothing of the model reads it (`UNREAD`). A key of
no kind, and a fixed one with another value, is refused by name: no case is run with a setting left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mmcore.errors import RecipeError
from mmcore.parity import Case, NotRun

from mmcore_glee.config import LITE, LOSS_WEIGHTS, MATCH_COSTS, PLUS, PRO, GleeConfig

SETTINGS = {
    "MODEL.PIXEL_MEAN": "image_mean",
    "MODEL.PIXEL_STD": "image_std",
    "MODEL.EARLYFUSION": "early_fusion",
    "MODEL.VISUAL_PROMPT": "visual_prompt",
    "MODEL.VIDEO_WINDOW_SIZE": "video_window",
    "MODEL.LANGUAGE_BACKBONE.LANG_DIM": "text_dim",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "encoder_layers",
    "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": "encoder_ffn",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "mask_dim",
    "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": "num_levels",
    # Dropout and heads of this section reach the pixel decoder only: the query decoder keeps 0 and 8.
    "MODEL.MaskDINO.DROPOUT": "encoder_dropout",
    "MODEL.MaskDINO.NHEADS": "encoder_heads",
    "MODEL.MaskDINO.DIM_FEEDFORWARD": "decoder_ffn",
    "MODEL.MaskDINO.DEC_LAYERS": "decoder_layers",
    "MODEL.MaskDINO.NUM_OBJECT_QUERIES": "num_queries",
    "MODEL.MaskDINO.ENFORCE_INPUT_PROJ": "decoder_input_proj",
    "MODEL.MaskDINO.TWO_STAGE": "two_stage",
    "MODEL.MaskDINO.LEARN_TGT": "learned_content",
    "MODEL.MaskDINO.INITIAL_PRED": "initial_prediction",
    "MODEL.MaskDINO.DEEP_SUPERVISION": "deep_supervision",
    "MODEL.MaskDINO.BOX_LOSS": "box_losses",
    "MODEL.MaskDINO.DN": "denoising",
    "MODEL.MaskDINO.DN_NUM": "denoising_queries",
    "MODEL.MaskDINO.DN_NOISE_SCALE": "denoising_noise",
    "MODEL.MaskDINO.TRAIN_NUM_POINTS": "mask_points",
    "MODEL.MaskDINO.OVERSAMPLE_RATIO": "oversample_ratio",
    "MODEL.MaskDINO.IMPORTANCE_SAMPLE_RATIO": "importance_ratio",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "resnet_stem",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "resnet_out",
    "MODEL.RESNETS.NUM_GROUPS": "resnet_groups",
    "MODEL.RESNETS.STRIDE_IN_1X1": "resnet_stride_in_1x1",
    "MODEL.SWIN.EMBED_DIM": "swin_width",
    "MODEL.SWIN.DEPTHS": "swin_depths",
    "MODEL.SWIN.NUM_HEADS": "swin_heads",
    "MODEL.SWIN.WINDOW_SIZE": "swin_window",
    "MODEL.SWIN.MLP_RATIO": "swin_mlp_ratio",
    "MODEL.SWIN.QKV_BIAS": "swin_qkv_bias",
    "MODEL.SWIN.PATCH_NORM": "swin_patch_norm",
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
}
"""Keys of the published code and entries of ours that say the same."""
PARTS = {
    "MODEL.MaskDINO.CLASS_WEIGHT": ("loss_weights", ("loss_ce", "loss_conf")),
    "MODEL.MaskDINO.MASK_WEIGHT": ("loss_weights", ("loss_mask",)),
    "MODEL.MaskDINO.DICE_WEIGHT": ("loss_weights", ("loss_dice",)),
    "MODEL.MaskDINO.BOX_WEIGHT": ("loss_weights", ("loss_bbox",)),
    "MODEL.MaskDINO.GIOU_WEIGHT": ("loss_weights", ("loss_giou",)),
    "MODEL.MaskDINO.COST_CLASS_WEIGHT": ("match_costs", ("label",)),
    "MODEL.MaskDINO.COST_MASK_WEIGHT": ("match_costs", ("mask",)),
    "MODEL.MaskDINO.COST_DICE_WEIGHT": ("match_costs", ("dice",)),
    "MODEL.MaskDINO.COST_BOX_WEIGHT": ("match_costs", ("box",)),
    "MODEL.MaskDINO.COST_GIOU_WEIGHT": ("match_costs", ("giou",)),
}
"""Keys that are one number of a group of ours."""
RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
TEXT = {"clip_frozen": "frozen", "clip_teacher": "teacher", "clip_unfrozen": "unfrozen"}


def _known(table: Mapping[Any, Any], entry: str) -> Callable[[Any], dict[str, Any]]:
    def translate(value: Any) -> dict[str, Any]:
        if value not in table:
            raise NotRun(f"{entry} is given as {value!r}, which has no counterpart here")
        return {entry: table[value]}

    return translate


TRANSLATED: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "MODEL.RESNETS.DEPTH": _known(RESNET_DEPTHS, "resnet_depths"),
    "MODEL.TEXT.ARCH": _known(TEXT, "text"),
    "MODEL.SWIN.QK_SCALE": lambda value: {"swin_qk_scale": value or None},
    "DATALOADER.DATASET_BS": lambda value: {"track_clips": value[-1]},
}
"""Keys whose values are said otherwise here. Channels per group are taken with their number, in `config_of`."""
WIDTH = "MODEL.RESNETS.WIDTH_PER_GROUP"
SAME = object()
"""The value that the case's published file has."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GLEE",),
    "MODEL.BACKBONE.NAME": (SAME,),
    "MODEL.BACKBONE.FREEZE_AT": (0,),
    "MODEL.RESNETS.NORM": ("FrozenBN",),
    "MODEL.RESNETS.OUT_FEATURES": (["res2", "res3", "res4", "res5"],),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
    "MODEL.SWIN.PATCH_SIZE": (4,),
    "MODEL.SWIN.APE": (False,),
    "MODEL.SWIN.DROP_RATE": (0.0,),
    "MODEL.SWIN.ATTN_DROP_RATE": (0.0,),
    "MODEL.SWIN.OUT_FEATURES": (["res2", "res3", "res4", "res5"],),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ("MaskDINOEncoder",),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": (SAME,),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": (SAME,),
    "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": ("low2high",),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4,),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN",),
    # The fusion, the query decoder's positions and the prompts have 256 channels whatever these say.
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": (256,),
    "MODEL.MaskDINO.HIDDEN_DIM": (256,),
    "MODEL.DIM_PROJ": (256,),
    "MODEL.MaskDINO.TRANSFORMER_DECODER_NAME": ("MaskDINODecoder",),
    "MODEL.MaskDINO.INITIALIZE_BOX_TYPE": ("no",),
    # With one of these the published losses end in an error.
    "MODEL.MaskDINO.PANO_BOX_LOSS": (False,),
    "MODEL.MaskDINO.SEMANTIC_CE_LOSS": (False,),
    "MODEL.CROSS_TRACK": (False,),
    "MODEL.MAX_CATEGORY_LEN": (100,),
    "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN": (77,),
    "INPUT.DATASET_MAPPER_NAME": (SAME,),
}
"""Keys of which this package has one value."""
TOLD = ("MODEL.PSEUDO_VIDEO", "MODEL.MaskDINO.SIZE_DIVISIBILITY", "INPUT.SAMPLING_FRAME_NUM", "SOLVER.")
"""What a case's task, images, clips and solver say; read where they are (`multiple_of`, `frames_of`)."""
UNREAD_IN = {
    "": "INPUT. DATALOADER. DATASETS. TEST. OUTPUT_DIR SEED VERSION VIS_PERIOD GLOBAL. CUDNN_BENCHMARK "
    "FIND_UNUSED_PARAMETERS ATTENTION_ARCH",
    "MODEL.": "DEVICE WEIGHTS MASK_ON KEYPOINT_ON LOAD_PROPOSALS FREEZE_WHOLE CONTRAS_MEAN TRACK_VERSION FPN. RPN. "
    "ROI_ PROPOSAL_GENERATOR. ANCHOR_GENERATOR. PANOPTIC_FPN. RETINANET. ENCODER. DECODER. EVA01. INTERNIMAGE.",
    "MODEL.TEXT.": "NAME TOKENIZER CONTEXT_LENGTH WIDTH HEADS LAYERS AUTOGRESSIVE",
    # Padding to the longest name or to all positions: what stands at padding is read of expressions only.
    "MODEL.LANGUAGE_BACKBONE.": "USE_CHECKPOINT TOKENIZER_TYPE MODEL_TYPE N_LAYERS PAD_MAX",
    "MODEL.RESNETS.": "RES4_DILATION RES5_MULTI_GRID STEM_TYPE DEFORM_MODULATED DEFORM_NUM_GROUPS",
    "MODEL.SWIN.": "PRETRAIN_IMG_SIZE USE_CHECKPOINT PRETRAINED_WEIGHT",
    "MODEL.EVA02.": "CHECKPOINT PRETRAINED_WEIGHT",
    "MODEL.SEM_SEG_HEAD.": "NAME IGNORE_VALUE NUM_CLASSES LOSS_WEIGHT LOSS_TYPE NUM_FEATURE_LEVELS PROJECT_FEATURES "
    "PROJECT_CHANNELS USE_DEPTHWISE_SEPARABLE_CONV ASPP_CHANNELS ASPP_DILATIONS ASPP_DROPOUT "
    "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS",
    "MODEL.MaskDINO.": "NO_OBJECT_WEIGHT ENC_LAYERS PRE_NORM PRED_CONV EVAL_FLAG TEST.",
}
UNREAD = tuple(section + name for section, names in UNREAD_IN.items() for name in names.split())
"""Keys, and beginnings of keys, that the published model's numbers do not depend on."""
CLIP = {
    "vocab_size": "text_vocabulary",
    "max_position_embeddings": "text_positions",
    "hidden_size": "text_dim",
    "intermediate_size": "text_ffn",
    "num_hidden_layers": "text_layers",
    "num_attention_heads": "text_heads",
    "hidden_act": "text_activation",
}
CLIP_UNREAD = (
    "projection_dim",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "initializer_factor",
)
"""Of a head and a pooled output that GLEE leaves out, and of starting values."""
CONFIG_ENTRIES = frozenset({"base_config", "overrides", "clip_text", "dropout"})
SIZES = {"Lite": LITE, "Plus": PLUS, "Pro": PRO}
FRAMES = {"BURST": 4, "TAO": 4, "LVVIS": 2, "ovis": 2, "ytvis19": 2}
"""Frames of a training clip in the published files of Lite and Plus; of Pro and of images it is one."""
SMALL_WINDOWS = ("BURST_Pro", "TAO_Pro", "ovis_Pro")
"""Published files that send two frames through the model at a time."""


def published_config(base: str) -> GleeConfig:
    """Our configuration of a published YAML file.

    Raises:
        NotRun: its backbone is not in this package.
    """
    size = next((size for size in SIZES if f"/{size}/" in f"/{base}"), None)
    if size is None:
        raise NotRun(f"{base} has a backbone that is not built yet")
    joint = "Stage2" in base or "Stage3" in base
    return SIZES[size].replace(
        text="teacher" if joint or "clip_teacher" in base else "frozen",
        visual_prompt=joint,
        padded_video_boxes=base.startswith("videos/"),
        video_window=2 if any(name in base for name in SMALL_WINDOWS) else 10,
        track_clips=2,
    )


def config_of(case: Case) -> GleeConfig:
    """The configuration of a case: a published file and its overrides.

    Raises:
        NotRun: the backbone is not in this package, or a setting has no counterpart here, by name.
    """
    given = case.data["config"]
    if isinstance(given, str):
        return published_config(given)
    if unknown := set(given) - CONFIG_ENTRIES:
        raise NotRun(f"the case's configuration has {', '.join(sorted(unknown))}, which is not known here")
    config = published_config(given["base_config"])
    changes = _clip_changes(given.get("clip_text", {}))
    overrides = given.get("overrides", {})
    for key, value in overrides.items():
        for entry, new in _changes(key, value, config, given["base_config"]).items():
            changes[entry] = {**changes.get(entry, {}), **new} if isinstance(new, dict) else new
    for entry, published in (("loss_weights", LOSS_WEIGHTS), ("match_costs", MATCH_COSTS)):
        changes[entry] = {**published, **changes.get(entry, {})}
    if WIDTH in overrides or "resnet_groups" in changes:
        changes["resnet_width"] = overrides.get(WIDTH, 64) * changes.get("resnet_groups", 1)
    try:
        return config.replace(**changes, fusion_dropout=0.0)
    except RecipeError as error:
        raise NotRun(f"the case's settings do not fit together here: {error}") from error


def _changes(key: str, value: Any, config: GleeConfig, base: str) -> dict[str, Any]:
    """What one key changes in our configuration."""
    if key in SETTINGS:
        entry = SETTINGS[key]
        kind = type(getattr(config, entry))
        return {entry: tuple(value) if kind is tuple else float(value) if kind is float else value}
    if key in PARTS:
        group, names = PARTS[key]
        return {group: dict.fromkeys(names, float(value))}
    if key in TRANSLATED:
        return TRANSLATED[key](value)
    if key in FIXED:
        allowed = [published_value(key, base) if one is SAME else one for one in FIXED[key]]
        if (list(value) if isinstance(value, tuple) else value) not in allowed:
            raise NotRun(f"the case has {key} {value!r}, of which this package has {allowed[0]!r} only")
        return {}
    if key == WIDTH or key.startswith((*TOLD, *UNREAD)):
        return {}
    raise NotRun(f"the case changes {key}, which has no counterpart here")


def published_value(key: str, base: str) -> Any:
    """What a published file says of a key whose values the three sizes differ in."""
    size = next(size for size in SIZES if f"/{size}/" in f"/{base}")
    pyramid = size == "Pro"
    if key == "MODEL.BACKBONE.NAME":
        return {"Lite": "build_resnet_backbone", "Plus": "D2SwinTransformer", "Pro": "D2_EVA02"}[size]
    if key == "INPUT.DATASET_MAPPER_NAME":
        return "coco_instance_lsj" if pyramid else None
    if pyramid:
        return ["p3", "p4", "p5", "p6"]
    return ["res3", "res4", "res5"] if "DEFORMABLE" in key else ["res2", "res3", "res4", "res5"]


def _clip_changes(clip: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := set(clip) - set(CLIP) - set(CLIP_UNREAD):
        raise NotRun(f"the case's text encoder has {', '.join(sorted(unknown))}, which is not known here")
    return {ours: clip[theirs] for theirs, ours in CLIP.items() if theirs in clip}


def overridden(case: Case, key: str, default: Any) -> Any:
    """A key of the case's configuration that says nothing of the model itself."""
    given = case.data.get("config")
    return given.get("overrides", {}).get(key, default) if isinstance(given, dict) else default


def multiple_of(case: Case) -> int:
    """What the sides of a batch are multiples of; below 1 the backbone decides, and a ResNet takes any."""
    given = overridden(case, "MODEL.MaskDINO.SIZE_DIVISIBILITY", 32)
    if given < 0:
        given = 1 if config_of(case).backbone == "resnet" else 32
    return max(given, 1)


def frames_of(case: Case) -> int:
    """Frames that the published track loss takes for one clip, whatever the batch has."""
    base = case.data["config"]["base_config"]
    of_file = next((count for name, count in FRAMES.items() if name in base), 1)
    return overridden(case, "INPUT.SAMPLING_FRAME_NUM", 1 if "/Pro/" in base else of_file)
