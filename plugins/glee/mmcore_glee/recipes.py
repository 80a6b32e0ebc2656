"""The published GLEE stages as data, and the tiny ones that run on a laptop.

Numbers come from the YAML files below `projects/GLEE/configs/images` of FoundationVision/GLEE (commit 6f5a19d3) and,
for file names, from `projects/GLEE/glee/data`. Where documents and code differ the code is followed and a note says so.
"""

from mmcore import AdamW, Cosine, Data, Init, MultiStep, Source, SourcePerBatch, Stage, Validation, WholeEpochs

from mmcore_glee.config import LOSS_WEIGHTS

HUB = "hf://spaces/Junfeng5/GLEE_demo/MODEL_ZOO"

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

COCO = Source(
    weight=1.5,
    format="COCO instances",
    annotations="coco/annotations/instances_train2017.json",
    images="coco/train2017",
    options={"task": "coco"},
)
REFCOCO = Source(
    weight=2.5,
    format="RefCOCO-COCO",
    annotations="annotations/refcoco-mixed/instances_train.json",
    images="coco/train2014",
    options={"task": "grounding"},
)
OBJECTS365 = Source(
    weight=1.5,
    format="COCO boxes",
    annotations="Objects365V2/annotations/zhiyuan_objv2_train_new.json",
    images="Objects365V2/images",
    options={"task": "obj365"},
)
OPENIMAGES = Source(
    weight=1.5,
    format="COCO boxes",
    annotations="open_image/openimages_v6_train_bbox_splitdir.json",
    images="openimages/detection",
    options={"task": "openimage"},
)
LVIS = Source(
    weight=1.5, format="LVIS v1", annotations="lvis/lvis_v1_train.json", images="coco", options={"task": "lvis"}
)
VG_OBJECTS = Source(
    weight=1.5,
    format="Visual Genome phrases",
    annotations="visual_genome/annotations/train_from_objects.json",
    images="visual_genome/images",
    options={"task": "vg"},
)
VG_REGIONS = VG_OBJECTS.replace(annotations="visual_genome/annotations/train.json")
GRIT = Source(
    weight=5.0,
    format="Visual Genome phrases",
    annotations="GRIT20M/grit_5m.json",
    images="grit-20m/images",
    options={"task": "grit"},
)
SA1B = Source(
    weight=2.0,
    format="SA-1B index and sidecars",
    annotations="SA1B_scaleup/sa1b_500k.json",
    images="SA1B_scaleup/images",
    options={"task": "sa1b"},
)
UVO = Source(
    weight=0.2,
    format="COCO instances",
    annotations="custom_annotations/UVO/annotations/FrameSet/UVO_frame_train_onecategory.json",
    images="UVO/uvo_videos_frames",
    options={"task": "sa1b"},
)
BDD_DETECTION = Source(
    weight=0.1,
    format="COCO boxes",
    annotations="bdd100k/labels/det_20/det_train_cocofmt.json",
    images="bdd100k/images/100k/train",
    options={"task": "bdd_det"},
)
BDD_INSTANCES = Source(
    weight=0.05,
    format="COCO instances",
    annotations="bdd100k/labels/ins_seg/polygons/ins_seg_train_cocoformat.json",
    images="bdd100k/images/10k/train",
    options={"task": "bdd_inst"},
)
YTVIS19_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ytvis_2019/annotations/ytvis19_cocofmt.json",
    images="ytvis_2019/train/JPEGImages",
    options={"task": "image_yt19"},
)
YTVIS21_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ytvis_2021/annotations/ytvis21_cocofmt.json",
    images="ytvis_2021/train/JPEGImages",
    options={"task": "image_yt21"},
)
OVIS_FRAMES = Source(
    weight=0.3,
    format="COCO instances",
    annotations="ovis/ovis_cocofmt.json",
    images="ovis/train",
    options={"task": "image_o"},
)

COCO_VAL = Validation(
    metrics=("bbox/AP", "segm/AP"),
    annotations="coco/annotations/instances_val2017.json",
    images="coco/val2017",
    format="COCO instances",
    options={"task": "coco"},
)
REFCOCO_VAL = Validation(
    metrics=("bbox/P@0.5", "segm/oIoU"),
    annotations="annotations/refcoco-unc-val/instances_val.json",
    images="coco/train2014",
    format="RefCOCO-COCO",
    options={"task": "grounding"},
)
LVIS_MINIVAL = Validation(
    metrics=("bbox/AP", "segm/AP"),
    annotations="lvis/lvis_v1_minival_inserted_image_name.json",
    images="coco",
    format="LVIS v1",
    options={"task": "lvis"},
)
OBJECTS365_VAL = Validation(
    metrics=("bbox/AP",),
    annotations="Objects365V2/annotations/zhiyuan_objv2_val_new.json",
    images="Objects365V2/images",
    format="COCO boxes",
    options={"task": "obj365"},
)

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
    init=Init(published=f"{HUB}/converted_maskdino_r50_withoutclip.pth"),
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
    validation={"coco_val": COCO_VAL, "refcoco_val": REFCOCO_VAL, "lvis_minival": LVIS_MINIVAL},
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
    init=Init(published=(f"{HUB}/converted_maskdino_r50_withoutclip.pth", "swin_large_patch4_window12_384_22k.pth")),
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

# assumed: everything about the tiny variant is ours, chosen so that the sample scenes train in minutes on two cores.
TINY_JOINT = LITE_JOINT.replace(
    title="joint training of a tiny model from random weights, for laptops, tests and examples",
    origin="assumed; structure and losses of the Lite recipe",
    notes=(),
    steps=700,
    global_batch=4,
    micro_batch=4,
    data=LITE_JOINT.data.replace(
        sources={"coco": COCO, "refcoco": REFCOCO.replace(weight=0.5)},
        mixture=WholeEpochs(by_aspect=True),  # as at test time, an image is padded by little
        transform={
            **MULTISCALE,
            "min_sizes": (112, 128, 144),
            "max_size": 192,
            "crop_probability": 0.0,
            "test_min_size": 128,
            "test_max_size": 192,
        },
    ),
    validation={"coco_val": COCO_VAL, "refcoco_val": REFCOCO_VAL},
    eval_every=350,
    best_metric="coco_val/bbox/AP50",
    optim=AdamW(lr=8e-4, weight_decay=0.01, clip_grad_norm=1.0),
    schedule=MultiStep(milestones=(580,), warmup_steps=50, warmup_factor=1e-2),
    precision="fp32",
    model={"text": "teacher", "visual_prompt": True},
    init=Init(optional=True),
    checkpoint_every=350,
)

TINY_FINETUNE = TINY_JOINT.replace(
    number=4,
    name="finetune",
    title="own data with a tiny model, for laptops, tests and examples; without --own the sample scenes",
    notes=("assumed: rate and steps let a hundred photographs be memorised from random weights in half an hour",),
    steps=1_500,
    data=TINY_JOINT.data.replace(sources={"coco": COCO}),
    validation={"coco_val": COCO_VAL},
    eval_every=500,
    schedule=Cosine(warmup_ratio=0.04, warmup_factor=0.01, final_factor=0.01),
    init=Init(stage="joint", optional=True),
    checkpoint_every=500,
)


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant, in training order."""
    return {
        "lite": (LITE_PRETRAIN, LITE_JOINT, LITE_SCALEUP, LITE_FINETUNE),
        "plus": (PLUS_PRETRAIN, PLUS_JOINT, PLUS_SCALEUP, PLUS_FINETUNE),
        "tiny": (TINY_JOINT, TINY_FINETUNE),
    }[variant]
