"""The published GLaMM stages as data, and the tiny ones that run on a laptop.

Numbers come from `docs/training.md`, `scripts/*.sh` and the defaults of `train.py` and `train_ft.py` of
mbzuai-oryx/groundingLMM (commit e74865f). An epoch there is a number of optimiser steps; 8 GPUs are assumed (the
listings show eight ranks), so that a step is 8 x 2 samples x 10 accumulations = 160.
"""

from typing import Any

from mmcore import AdamW, ByKind, Data, Init, LinearDecay, Lora, Stage, Validation, WholeEpochs
from mmcore.contract.recipe import Source

from mmcore_glamm import recipe_sources as published
from mmcore_glamm.recipe_sources import CAP, REG, SEG, parted, sources

VICUNA, CLIP = "hf://lmsys/vicuna-7b-v1.5", "hf://openai/clip-vit-large-patch14-336"
LLAVA, SAM = "hf://liuhaotian/llava-v1.5-7b", "hf://ybelkada/segment-anything/checkpoints/sam_vit_h_4b8939.pth"
PRETRAINED = "hf://MBZUAI/GLaMM-GranD-Pretrained"
KINDS = {CAP: 0.15, REG: 0.40, SEG: 0.45}
"""`--weight_cap`, `--weight_reg`, `--weight_segm`."""
TRAINED = ("language.lm_head", "language.model.embed_tokens", "region_encoder", "sam.mask_decoder", "seg_projection")
"""Fully trained in every stage beside the adapters, whether its data use them or not."""
PER_EPOCH = 500
EVERY_STEP = (
    "normalise process: every micro-batch divides by its own tokens and masks; then all are averaged",
    "one kind of data an optimiser step on all processes; the released code draws it on each process for itself",
    "the first released step runs at the full rate, the second at 0 (deepspeed 0.12.5); here the warm-up starts at 0",
)


def mixed(found: dict[str, Source]) -> Data:
    """Kind, then source, then record; kinds without a source have no weight."""
    there = {source.group for source in found.values()}
    return Data(sources=found, mixture=ByKind(weights={kind: w for kind, w in KINDS.items() if kind in there}))


GCG = Stage(
    number=2,
    name="gcg",
    title="grounded conversation generation: captions whose phrases are masks",
    origin="docs/training.md, 1",
    notes=(
        *EVERY_STEP,
        "rates 1,3,3,3,1 as documented; scripts/finetune_glamm_gcg.sh has 3,9,9,9,1: stage gcg-script",
        "the five semantic sets share one rate; PACO-LVIS and PASCAL-Part, on which the released reader stops, too",
        "RefCOCOg: overlapping phrases are told apart in the order of the text; options.published_spans=true does it "
        "as the released reader, which leaves empty and misplaced phrases",
        "validation: the released one is over the three sets together; here the best checkpoint is Flickr30k's",
    ),
    steps=10 * PER_EPOCH,
    global_batch=160,
    micro_batch=2,
    data=mixed(
        {
            **parted(published.SEMANTICS, 1.0),
            **sources(published.GROUNDED, {"refcocog_gcg": 3.0, "psg_gcg": 3.0, "flickr_gcg": 3.0, "grandf_gcg": 1.0}),
        }
    ),
    validation={**published.GCG_VAL, **published.GCG_PROTOCOL},
    eval_every=PER_EPOCH,
    best_metric="flickr_gcg_val/gIoU",
    optim=AdamW(lr=3e-4, betas=(0.9, 0.95), clip_grad_norm=1.0),
    schedule=LinearDecay(warmup_steps=100),
    normalise="process",
    precision="bf16",
    gradient_checkpointing=True,
    trainable=TRAINED,
    lora=Lora(rank=8, alpha=16.0, dropout=0.05, targets=("q_proj", "v_proj")),
    loss_weights={"text": 1.0, "mask_bce": 2.0, "mask_dice": 0.5},
    max_length=1536,
    init=Init(stage="pretrain", published=(PRETRAINED, CLIP)),
    zero=2,
    checkpoint_every=PER_EPOCH,
)
GCG_SCRIPT = GCG.replace(
    number=8,
    name="gcg-script",
    title="the same with the rates of the script",
    origin="scripts/finetune_glamm_gcg.sh",
    notes=EVERY_STEP,
    data=mixed(
        {
            **parted(published.SEMANTICS, 3.0),
            **sources(published.GROUNDED, {"refcocog_gcg": 9.0, "psg_gcg": 9.0, "flickr_gcg": 9.0, "grandf_gcg": 1.0}),
        }
    ),
)

REGCAP_REFCOCOG = GCG.replace(
    number=3,
    name="regcap-refcocog",
    title="region captions of RefCOCOg",
    origin="docs/training.md, 2; scripts/finetune_glamm_reg_refcocog.sh",
    notes=(
        *EVERY_STEP,
        "the script passes --segm_sample_rates for --reg_sample_rates and stops; the documented rate 1 is meant",
    ),
    steps=5 * PER_EPOCH,
    data=mixed(sources(published.REGIONS, {"refcocog_reg": 1.0})),
    validation={
        **published.REFCOCOG_REG_VAL,
        "refcocog_captions": published.REGION_PROTOCOL["refcocog_captions"],
    },
    best_metric="refcocog_reg_val/ce",
)
REGCAP_VG = REGCAP_REFCOCOG.replace(
    number=4,
    name="regcap-vg",
    title="region captions of Visual Genome",
    origin="docs/training.md, 2; scripts/finetune_glamm_reg_vg.sh",
    data=mixed(sources(published.REGIONS, {"visual_genome_reg": 1.0})),
    validation={
        **published.VG_REG_VAL,
        "visual_genome_captions": published.REGION_PROTOCOL["visual_genome_captions"],
    },
    best_metric="visual_genome_reg_val/ce",
)

_REFSEG = ("refcoco", "refcoco_plus", "refcocog")
REFSEG = GCG.replace(
    number=5,
    name="refseg",
    title="referring expression segmentation",
    origin="docs/training.md, 3",
    notes=(
        *EVERY_STEP,
        "the documented line names RefCOCOgSegVal, which does not exist; RefCOCOgSegmVal is meant",
        "5 x 350 steps of random draws as documented; the script makes full passes: stage refseg-passes",
        "eight splits by `mmcore eval --on refcoco_val,...`: answers given, three random sentences a picture",
    ),
    steps=5 * 350,
    data=mixed(parted(published.REFERRING, 1.0, _REFSEG)),
    validation={**published.REFCOCOG_SEG_VAL, **published.REFER_PROTOCOL},
    eval_every=350,
    best_metric="refcocog_seg_val/gIoU",
    checkpoint_every=350,
)
REFSEG_PASSES = REFSEG.replace(
    number=9,
    name="refseg-passes",
    title="the same in five passes over all pictures",
    origin="scripts/finetune_glamm_refsegm.sh (train_ft.py)",
    notes=(
        EVERY_STEP[0],
        EVERY_STEP[2],
        "16,994 + 16,992 + 21,899 pictures / 160: about 349 steps a pass; the sets in proportion",
    ),
    steps=None,
    epochs=5.0,
    data=Data(
        sources={
            name: Source(weight=float(count), **{**published.REFERRING[name], "group": None})
            for name, count in zip(_REFSEG, (16_994, 16_992, 21_899), strict=True)
        },
        mixture=WholeEpochs(source_per="sample"),
    ),
)

COMBINED = GCG.replace(
    number=6,
    name="combined",
    title="everything: captions, questions, regions, referring segmentation, grounded conversations",
    origin="docs/training.md, 4",
    notes=(
        *EVERY_STEP,
        "the documented line has slips that stop it: -cap_dataset and -seg_dataset for --, --cap_sample_rate for "
        '--cap_sample_rates, a dash before "1,1,1,1,1"',
        "its region sets name FlickrGCGVal, a validation set; Flickr_Reg is meant; the boxes of its group question are "
        "shown again in the questions for one box",
        "validation by cross entropy as in the line, which has no --mask_validation; gIoU and cIoU are given as well",
        "train.py's own defaults differ from the line: stage combined-defaults",
    ),
    data=mixed(
        {
            **sources(published.CAPTIONS, {"coco_captions": 1.0, "llava_instruct": 2.0}),
            **sources(published.REGIONS, dict.fromkeys(published.REGIONS, 1.0)),
            **parted(published.SEMANTICS, 4.0),
            **parted(published.REFERRING, 3.0, (*_REFSEG, "refclef")),
            **sources(published.GROUNDED, {"refcocog_gcg": 2.0, "psg_gcg": 2.0, "flickr_gcg": 2.0, "grandf_gcg": 1.0}),
        }
    ),
    validation={
        **{name: one.replace(metrics=published.TEXT) for name, one in published.GCG_VAL.items()},
        **published.GCG_PROTOCOL,
        **published.REFER_PROTOCOL,
        **published.REGION_PROTOCOL,
    },
    best_metric="flickr_gcg_val/ce",
)
COMBINED_DEFAULTS = COMBINED.replace(
    number=10,
    name="combined-defaults",
    title="the same with the defaults of the script",
    origin="train.py, defaults",
    notes=(*EVERY_STEP, "needs --use_cap_data --use_reg_data --use_segm_data there, or nothing is drawn"),
    data=mixed(
        {
            **sources(published.CAPTIONS, dict.fromkeys(published.CAPTIONS, 1.0)),
            **sources(
                published.REGIONS,
                {"refcoco_reg": 1.0, "refcocog_reg": 1.0, "refcoco_plus_reg": 1.0, "visual_genome_reg": 1.0},
            ),
            **parted(published.SEMANTICS, 5.0),
            **parted(published.REFERRING, 4.0, (*_REFSEG, "refclef")),
            **sources(published.GROUNDED, {"refcocog_gcg": 3.0, "psg_gcg": 3.0, "flickr_gcg": 3.0, "grandf_gcg": 1.0}),
        }
    ),
    validation={
        **published.COCO_CAP_VAL,
        **published.REFCOCOG_REG_VAL,
        **{name: one.replace(metrics=published.TEXT) for name, one in published.REFCOCOG_SEG_VAL.items()},
    },
    best_metric="coco_captions_val/ce",
)

PRETRAIN = GCG.replace(
    number=1,
    name="pretrain",
    title="GranD: captions, regions and expressions with masks",
    origin="dataset classes of train.py; no command is published",
    notes=(
        *EVERY_STEP,
        "assumed: one source a kind at the kinds' default weights, and the other numbers of the fine-tunes",
        "25,000 steps: the published weights are called exp1_grand_pretrain_v15_gs4488_ckpt_25000",
        "the released caption and segmentation classes stop at their first sample; done as intended: a caption of the "
        "picture, and three expressions with their masks",
        "starts from LLaVA-1.5-7B (v15 in the name) and SAM ViT-H; the region encoder is new",
    ),
    steps=25_000,
    data=mixed(sources(published.PRETRAINING, dict.fromkeys(published.PRETRAINING, 1.0))),
    validation={},
    eval_every=None,
    best_metric=None,
    model={"add_tokens": True, "tokenizer": "liuhaotian/llava-v1.5-7b"},
    init=Init(published=(LLAVA, CLIP, SAM)),
)

# assumed: a fine-tune on somebody's own data; a tenth of the published batch, the model as published.
FINETUNE = GCG.replace(
    number=7,
    name="finetune",
    title="own data (--own FILE): masks, expressions, described boxes, captions, conversations",
    origin="assumed; model, losses and rate of the published fine-tunes",
    notes=(
        "assumed: 1,000 steps of 16 conversations, a tenth of the published batch, at a third of its rate",
        "assumed: a warm-up of 3 %, evaluated and saved five times, whatever the number of steps",
    ),
    steps=1_000,
    global_batch=16,
    data=Data(sources={}, mixture=WholeEpochs()),
    validation={},
    eval_every=0.2,
    best_metric=None,
    optim=AdamW(lr=1e-4, betas=(0.9, 0.95), clip_grad_norm=1.0),
    schedule=LinearDecay(warmup_ratio=0.03),
    normalise="global",
    checkpoint_every=0.2,
)

# assumed: everything about the tiny variant is ours, chosen so that the sample scenes train in minutes on two cores.
# Everything starts from random weights where the published parts are pre-trained, so all of it is trained.
ON_A_LAPTOP: dict[str, Any] = {
    "normalise": "global",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "max_length": 512,
    "zero": 0,
    "lora": None,
    "trainable": ("*", "tower", "sam.image_encoder"),  # a family's towers are trained only where they are named
    "frozen": ("sam.prompt_encoder",),
    "schedule": LinearDecay(warmup_ratio=0.05),
    "optim": AdamW(lr=1e-3, betas=(0.9, 0.95), clip_grad_norm=1.0),
    "origin": "assumed; structure and losses of the published recipe",
    "notes": ("everything is trained: it starts from random weights",),
    "micro_batch": 8,
    "global_batch": 8,
    "eval_every": 0.25,
    "checkpoint_every": 0.5,
    "model": {"features": "live"},
}
DEMO = "glamm"
DEMO_IMAGES = f"{DEMO}/images"
DEMO_REFER_FILES = (f"{DEMO}/refs(unc).json", f"{DEMO}/instances.json")


def _drawn(group: str, format: str, annotations: str | tuple[str, str]) -> Source:
    return Source(weight=1.0, format=format, annotations=annotations, images=DEMO_IMAGES, group=group)


def _held_back(format: str, annotations: str | tuple[str, str], *metrics: str, **options: Any) -> Validation:
    entry = {"annotations": annotations, "images": DEMO_IMAGES, "metrics": metrics, "options": options}
    return Validation(format=format, batch_size=8, **entry)


DEMO_GCG = _drawn(SEG, "GranD-f", f"{DEMO}/grounded_train.json")
DEMO_REFER = _drawn(SEG, "RefCOCO by image", DEMO_REFER_FILES)
DEMO_REGIONS = _drawn(REG, "Visual Genome region captions", f"{DEMO}/regions_train.json")
DEMO_CAPTIONS = _drawn(CAP, "COCO captions", f"{DEMO}/captions_train.json")
GCG_DEMO_VAL = _held_back("GranD-f", f"{DEMO}/grounded_val.json", "gIoU", "cIoU", "ce")
REFER_DEMO_VAL = _held_back("RefCOCO by image", DEMO_REFER_FILES, "cIoU", "gIoU", "ce", split="val")
REGION_DEMO_VAL = _held_back("Visual Genome region captions", f"{DEMO}/regions_val.json", "ce")
ASKED_DEMO_VAL = _held_back(
    "GCG evaluation",
    (f"{DEMO}/val_gcg_coco_caption_gt.json", f"{DEMO}/val_gcg_coco_mask_gt.json"),
    *("AP50", "mIoU", "recall_words"),
    alike="words",
    captioned=False,
    max_new_tokens=64,
    request="Describe the picture with masks.",
).replace(training=False)


def _tiny(stage: Stage, steps: int, found: dict[str, Source], validation: dict[str, Validation], best: str) -> Stage:
    title = f"{stage.title}, with sample scenes on a laptop"
    return stage.replace(
        **ON_A_LAPTOP,
        title=title,
        steps=steps,
        epochs=None,
        data=mixed(found),
        validation=validation,
        best_metric=best,
        init=stage.init.replace(published=None, optional=True),
    )


_GCG_VAL = {"demo_gcg_val": GCG_DEMO_VAL, "demo_gcg": ASKED_DEMO_VAL}
_REFER_VAL = {"demo_refer_val": REFER_DEMO_VAL}
_REGION_VAL = {"demo_region_val": REGION_DEMO_VAL}
_ALL = {"captions": DEMO_CAPTIONS, "regions": DEMO_REGIONS, "refer": DEMO_REFER}
TINY = (
    _tiny(PRETRAIN, 300, _ALL, _REFER_VAL, "demo_refer_val/gIoU"),
    _tiny(GCG, 1000, {"grounded": DEMO_GCG}, _GCG_VAL, "demo_gcg_val/gIoU"),
    _tiny(REGCAP_REFCOCOG, 300, {"regions": DEMO_REGIONS}, _REGION_VAL, "demo_region_val/ce"),
    _tiny(REGCAP_VG, 300, {"regions": DEMO_REGIONS}, _REGION_VAL, "demo_region_val/ce"),
    _tiny(REFSEG, 500, {"refer": DEMO_REFER}, _REFER_VAL, "demo_refer_val/gIoU").replace(
        init=Init(stage="gcg"),
        frozen=("sam",),
        notes=(
            "SAM stays as the stage before it left it: trained along, its decoder learns to mask every shape, and to "
            "pass over what is asked, before the questions are understood",
        ),
    ),
    _tiny(COMBINED, 400, {**_ALL, "grounded": DEMO_GCG}, {**_GCG_VAL, **_REFER_VAL}, "demo_gcg_val/gIoU"),
    _tiny(FINETUNE, 300, {"grounded": DEMO_GCG}, {}, "none/none").replace(
        data=Data(sources={"grounded": DEMO_GCG.replace(group=None)}, mixture=WholeEpochs()),
        validation={"demo_gcg_val": GCG_DEMO_VAL},
        best_metric="demo_gcg_val/gIoU",
    ),
)


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one size, in training order; then those of the scripts that differ from the documents."""
    if variant == "tiny":
        return TINY
    main = (PRETRAIN, GCG, REGCAP_REFCOCOG, REGCAP_VG, REFSEG, COMBINED, FINETUNE)
    return (*main, GCG_SCRIPT, REFSEG_PASSES, COMBINED_DEFAULTS)
