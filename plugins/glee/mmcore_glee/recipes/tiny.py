"""The tiny variant: random weights, for --demo, tests and examples. Everything here is ours.

The three image stages, each of which may start from the one before or from random weights, a fine-tune, and clips.
"""

from mmcore import AdamW, Cosine, Init, MultiStep, Source, Validation, WholeEpochs

from mmcore_glee.recipes.multiscale import LITE_JOINT, MULTISCALE
from mmcore_glee.recipes.sources import (
    COCO,
    COCO_VAL,
    GRIT,
    OBJECTS365,
    OBJECTS365_VAL,
    OPENIMAGES,
    REFCOCO,
    REFCOCO_VAL,
    SA1B,
)

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
    init=Init(stage="pretrain", optional=True),
    checkpoint_every=350,
)

SCENES = "coco/train2017"
"""Pictures of the sample scenes, which several files annotate."""

TINY_PRETRAIN = TINY_JOINT.replace(
    number=1,
    name="pretrain",
    title="boxes under two lists of names with a tiny model, text encoder frozen",
    origin="assumed; structure and losses of the Lite recipe of stage 1",
    steps=300,
    data=TINY_JOINT.data.replace(
        sources={
            "obj365": OBJECTS365.replace(weight=1.0, images=SCENES),
            "openimage": OPENIMAGES.replace(weight=1.0, images=SCENES),
        },
    ),
    validation={"obj365_val": OBJECTS365_VAL.replace(images="coco/val2017")},
    eval_every=300,
    best_metric="obj365_val/bbox/AP",
    schedule=MultiStep(milestones=(260,), warmup_steps=50, warmup_factor=1e-2),
    model={"text": "frozen", "visual_prompt": False},
    frozen=("text_encoder",),
    init=Init(optional=True),
    checkpoint_every=300,
)

TINY_SCALEUP = TINY_JOINT.replace(
    number=3,
    name="scaleup",
    title="the joint training of a tiny model with phrases and masks without names",
    origin="assumed; structure and losses of the Lite recipe of stage 3",
    steps=200,
    data=TINY_JOINT.data.replace(
        sources={
            **TINY_JOINT.data.sources,
            "grit": GRIT.replace(weight=0.5, images=SCENES),
            "sa1b": SA1B.replace(weight=1.0, annotations="SA1B_scaleup/sa1b_2m.json"),
        }
    ),
    eval_every=200,
    optim=TINY_JOINT.optim.replace(lr=4e-4),
    schedule=Cosine(warmup_ratio=0.05, warmup_factor=0.01, final_factor=0.01),
    init=Init(stage="joint", optional=True),
    checkpoint_every=200,
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

CLIPS = Source(
    weight=1.0,
    format="YouTube-VIS",
    annotations="clips/train.json",
    images="clips/train",
    options={"task": "coco_clip", "num_frames": 2, "frame_range": 3},
)
CLIPS_VAL = Validation(
    metrics=("segm/AP", "segm/AssA"),
    annotations="clips/val.json",
    images="clips/val",
    format="YouTube-VIS",
    options={"task": "coco_clip"},
)

TINY_VIDEO = TINY_JOINT.replace(
    number=5,
    name="video",
    title="tracking with a tiny model on sample clips, from the joint stage",
    notes=("assumed: what the joint stage learned is kept; two frames a clip teach which queries are the same thing",),
    steps=500,
    global_batch=4,
    micro_batch=4,
    data=TINY_JOINT.data.replace(sources={"clips": CLIPS}),
    validation={"clips_val": CLIPS_VAL},
    eval_every=500,
    best_metric="clips_val/segm/AP",
    optim=TINY_JOINT.optim.replace(lr=4e-4),
    schedule=Cosine(warmup_ratio=0.04, warmup_factor=0.01, final_factor=0.01),
    model={"text": "frozen", "visual_prompt": False},
    frozen=("text_encoder",),
    init=Init(stage="joint", optional=True),
    checkpoint_every=250,
)
