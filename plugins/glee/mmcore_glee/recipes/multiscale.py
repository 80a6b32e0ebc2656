"""GLEE Lite (ResNet-50) and Plus (Swin-L) on images: multi-scale training."""

from mmcore import AdamW, Cosine, Data, Init, MultiStep, SourcePerBatch, Stage, WholeEpochs

from mmcore_glee.config import LOSS_WEIGHTS
from mmcore_glee.recipes.sources import (
    BDD_DETECTION,
    BDD_INSTANCES,
    COCO,
    COCO_VAL,
    GRIT,
    LVIS,
    LVIS_MINIVAL,
    OBJECTS365,
    OBJECTS365_VAL,
    OMNILABEL_VAL,
    OPENIMAGES,
    OVIS_FRAMES,
    REFCOCO,
    REFCOCO_VAL,
    SA1B,
    UVO,
    VG_OBJECTS,
    VG_REGIONS,
    YTVIS19_FRAMES,
    YTVIS21_FRAMES,
)

HUB = "hf://spaces/Junfeng5/GLEE_demo/MODEL_ZOO"
CLIP = "hf://openai/clip-vit-base-patch32"
"""Text encoder; the published code needs it to build its model, and MaskDINO's file is without it."""

MULTISCALE = {  # base_clip_*_image_R50.yaml INPUT; the crop branch's short sides are fixed in the mapper's code
    "pipeline": "multiscale",
    "min_sizes": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    "max_size": 1333,
    "crop_min_sizes": (400, 500, 600),
    "crop_range": (384, 600),
    "crop_probability": 0.5,
    "flip_probability": 0.5,
    "test_min_size": 800,
    "test_max_size": 1333,
}

LITE_PRETRAIN = Stage(
    number=1,
    name="pretrain",
    title="detection pre-training on Objects365 and OpenImages, text encoder frozen",
    origin="configs/images/Lite/Stage1_pretrain_openimage_obj365_CLIPfrozen_R50.yaml",
    notes=(
        "global_batch 128: two images on each of the 64 documented GPUs, as the documents say; IMS_PER_BATCH says 64",
    ),
    steps=500_000,
    global_batch=128,
    micro_batch=2,
    data=Data(
        sources={
            "obj365": OBJECTS365.replace(weight=1.0),
            "openimage": OPENIMAGES.replace(weight=1.0),
        },
        mixture=SourcePerBatch(by_aspect=True),
        transform=MULTISCALE,
    ),
    validation={"obj365_val": OBJECTS365_VAL},
    eval_every=5_000,
    best_metric="obj365_val/bbox/AP",
    optim=AdamW(lr=1e-4, weight_decay=0.05, multipliers={"backbone": 0.1}, clip_grad_norm=0.01),
    schedule=MultiStep(milestones=(400_000,), warmup_steps=1_000, warmup_factor=1e-4),
    precision="bf16",
    frozen=("text_encoder",),
    loss_weights=dict(LOSS_WEIGHTS),
    model={"text": "frozen", "visual_prompt": False},
    init=Init(published=(f"{HUB}/converted_maskdino_r50_withoutclip.pth", CLIP)),
    checkpoint_every=10_000,
)

LITE_JOINT = LITE_PRETRAIN.replace(
    number=2,
    name="joint",
    title="joint training on detection, segmentation, phrases and referring expressions; CLIP tuned beside its teacher",
    origin="configs/images/Lite/Stage2_joint_training_CLIPteacher_R50.yaml",
    notes=(
        "sa1b: the YAML names sa1b_32_train, which the code does not register; the authors' list has sa1b_500k",
        "repeat-factor sampling: asked for on openimage, obj365 and lvis, but REPEAT_THRESHOLD 0 makes every factor 1",
        "global_batch 128: documented (64 GPUs x 2 images); IMS_PER_BATCH says 32 and is only checked for divisibility",
        "precision: bf16 here, fp16 with a loss scaler in the published code",
    ),
    steps=400_000,
    data=Data(
        sources={
            "openimage": OPENIMAGES,
            "obj365": OBJECTS365,
            "lvis": LVIS,
            "vg": VG_OBJECTS,
            "vg_regions": VG_REGIONS,
            "coco": COCO,
            "refcoco": REFCOCO,
            "sa1b": SA1B,
            "uvo": UVO,
            "bdd_det": BDD_DETECTION,
            "bdd_inst": BDD_INSTANCES,
            "image_yt19": YTVIS19_FRAMES,
            "image_yt21": YTVIS21_FRAMES,
            "image_o": OVIS_FRAMES,
        },
        mixture=SourcePerBatch(by_aspect=True),
        transform=MULTISCALE,
    ),
    validation={
        "coco_val": COCO_VAL,
        "refcoco_val": REFCOCO_VAL,
        "lvis_minival": LVIS_MINIVAL,
        "omnilabel_val": OMNILABEL_VAL,
    },
    eval_every=10_000,
    best_metric="coco_val/bbox/AP",
    optim=AdamW(lr=1e-4, weight_decay=0.05, multipliers={"backbone": 0.1, "text_encoder": 0.1}, clip_grad_norm=0.01),
    schedule=MultiStep(milestones=(300_000, 380_000), warmup_steps=100, warmup_factor=1e-2),
    frozen=("text_encoder_teacher",),
    model={"text": "teacher", "visual_prompt": True},
    init=Init(stage="pretrain", published=f"{HUB}/GLEE_Lite_pretrain.pth"),
)

LITE_SCALEUP = LITE_JOINT.replace(
    number=3,
    name="scaleup",
    title="joint training with more SA-1B and GRIT",
    origin="configs/images/Lite/Stage3_scaleup_CLIPteacher_R50.yaml",
    data=LITE_JOINT.data.replace(
        sources={
            **LITE_JOINT.data.sources,
            "grit": GRIT,
            "sa1b": SA1B.replace(weight=5.0, annotations="SA1B_scaleup/sa1b_2m.json"),
        }
    ),
    init=Init(stage="joint", published=f"{HUB}/GLEE_Lite_joint.pth"),
)

PLUS_PRETRAIN = LITE_PRETRAIN.replace(
    origin="configs/images/Plus/Stage1_pretrain_openimage_obj365_CLIPfrozen_SwinL.yaml",
    notes=(
        *LITE_PRETRAIN.notes,
        "backbone: swin_large_patch4_window12_384_22k.pth of microsoft/Swin-Transformer, into the folder weights",
    ),
    eval_every=3_000,
    init=Init(
        published=(f"{HUB}/converted_maskdino_r50_withoutclip.pth", CLIP, "swin_large_patch4_window12_384_22k.pth")
    ),
)

PLUS_JOINT = LITE_JOINT.replace(
    origin="configs/images/Plus/Stage2_joint_training_CLIPteacher_SwinL.yaml",
    steps=450_000,
    schedule=MultiStep(milestones=(360_000, 420_000), warmup_steps=100, warmup_factor=1e-2),
    init=Init(stage="pretrain", published=f"{HUB}/GLEE_Plus_pretrain.pth"),
)

PLUS_SCALEUP = LITE_SCALEUP.replace(
    origin="configs/images/Plus/Stage3_scaleup_CLIPteacher_SwinL.yaml",
    steps=PLUS_JOINT.steps,
    schedule=PLUS_JOINT.schedule,
    init=Init(stage="joint", published=f"{HUB}/GLEE_Plus_joint.pth"),
)

# assumed: a fine-tune on own data. A small batch, so a small rate; the text encoder follows at a tenth and is
# held by its teacher, so that names it never saw in the own data keep their meaning.
LITE_FINETUNE = LITE_SCALEUP.replace(
    number=4,
    name="finetune",
    title="own data (--own FILE): boxes, masks, phrases or expressions, under the user's own names",
    origin="assumed; losses and model of the joint stage",
    notes=(
        "assumed: 2,000 steps of 16 images, which is ten passes over 3,200 images; change it with --set steps=...",
        "assumed: lr 2e-5 for the smaller batch, a cosine to a hundredth of it, so that any number of steps ends low",
        "assumed: evaluated and saved ten times, whatever the number of steps",
    ),
    steps=2_000,
    global_batch=16,
    micro_batch=2,
    data=LITE_SCALEUP.data.replace(sources={}, mixture=WholeEpochs(by_aspect=True)),
    validation={},
    eval_every=0.1,
    best_metric=None,
    optim=AdamW(lr=2e-5, weight_decay=0.05, multipliers={"backbone": 0.1, "text_encoder": 0.1}, clip_grad_norm=0.01),
    schedule=Cosine(warmup_ratio=0.05, final_factor=0.01),
    init=Init(stage="scaleup", published=f"{HUB}/GLEE_Lite_scaleup.pth"),
    checkpoint_every=0.1,
)
PLUS_FINETUNE = LITE_FINETUNE.replace(init=Init(stage="scaleup", published=f"{HUB}/GLEE_Plus_scaleup.pth"))
