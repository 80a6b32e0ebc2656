"""The published configuration of a case as ours: keys of its YAML files and the entries that mean the same here."""

from mmcore.parity import Case, NotRun

from mmcore_glee.config import LITE, PLUS, PRO, GleeConfig

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
    "MODEL.VIDEO_WINDOW_SIZE": "video_window",
}
"""Configuration keys of the published code and ours."""
RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
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
    videos = base.startswith("videos/")
    text = "teacher" if joint else "frozen"
    return SIZES[size].replace(text=text, visual_prompt=joint, padded_video_boxes=videos)


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
        elif key == "MODEL.RESNETS.DEPTH" and value in RESNET_DEPTHS:
            changes["resnet_depths"] = RESNET_DEPTHS[value]
        elif key == "MODEL.TEXT.ARCH" and value in TEXT:
            changes["text"] = TEXT[value]
        elif not key.startswith(OUTSIDE):
            raise NotRun(f"the case changes {key}, which has no counterpart here")
    return config.replace(**changes, fusion_dropout=0.0)
