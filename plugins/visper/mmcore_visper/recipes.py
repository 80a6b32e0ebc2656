"""The published VisPer-LM stages as data, and the tiny ones that run on a laptop.

Numbers come from `scripts/train/*.sh` of SHI-Labs/VisPer-LM (commit f7baf3b) and the arguments' defaults. Epochs, not
steps, are published: 558 128 captions / 256 are about 2 181 steps, 665 298 conversations / 128 about 5 198.
"""

from typing import Any

from mmcore import AdamW, ByLength, Cosine, Data, Init, Source, Stage, Validation, WholeEpochs

LLAMA3, PHI3 = "hf://meta-llama/Meta-Llama-3-8B-Instruct", "hf://microsoft/Phi-3-mini-4k-instruct"
CLIP, CONVNEXT = (
    "hf://openai/clip-vit-large-patch14-336",
    "hf://laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup",
)

LLAVA_558K = Source(
    weight=1.0,
    format="LLaVA JSON",
    annotations="LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    images="LLaVA-Pretrain/images",
)
LLAVA_665K = Source(weight=1.0, format="LLaVA JSON", annotations="llava_v1_5_mix665k.json")
ALLAVA_CAPTION = Source(
    weight=1.0, format="LLaVA JSON", annotations="allava/ALLaVA-Caption.json", images="allava"
)  # LAION and VFLAN parts, concatenated
COCO_PROBE = Source(
    weight=1.0,
    format="COCO captions, probing",
    annotations="coco/annotations/captions_train2017.json",
    images="coco/train2017",
)

PROBE_VAL = Validation(
    metrics=("best", "mean"),
    annotations="coco/annotations/captions_val2017.json",
    images="coco/val2017",
    format="COCO captions, probing",
    options={"of": "coco_probe", "squash_px": 640},  # docs/Probing.md: every image is resized to 640x640 first
)


ANSWERED_TOGETHER = 8
"""assumed: the published scripts ask one question at a time; padding changes no answer beyond rounding, only the time.
`mmcore eval --batch-size 1` asks as they do."""


def _question_set(format: str, annotations: str, images: str, tokens: int, *metrics: str) -> Validation:
    """One benchmark of the paper; `tokens` is its published limit on the answer."""
    return Validation(
        metrics=metrics,
        annotations=annotations,
        images=images,
        format=format,
        options={"max_new_tokens": tokens},
        batch_size=ANSWERED_TOGETHER,
    )


BENCHMARKS = {
    "cv_bench": _question_set("CV-Bench", "eval/cv-bench/test.jsonl", "eval/cv-bench", 128, "overall", "2D", "3D"),
    "mmstar": _question_set("MMStar", "eval/mmstar/questions.jsonl", "eval/mmstar", 128, "final"),
    "realworldqa": _question_set("RealWorldQA", "eval/realworldqa/questions.jsonl", "eval/realworldqa", 16, "accuracy"),
    "okvqa": _question_set("OK-VQA", "eval/okvqa/questions.jsonl", "coco/val2014", 1024, "accuracy"),
    "mme": _question_set("MME", "eval/mme/questions.jsonl", "eval/mme", 16, "perception", "cognition"),
}

EMBEDDING_WEIGHTS = {"depth": 0.5, "seg": 0.5, "gen": 0.5}  # pretrain.sh --loss_weights d0.5_s0.5_g0.5

PT = Stage(
    number=1,
    name="pt",
    title="captions: projector, task tokens and embedding predictors are trained, the language model is frozen",
    origin="scripts/train/pretrain.sh",
    notes=(
        "embedding losses: samples with an image count; the released forward zeroes its masks and with them the losses",
        "depth layers 18-20 as in the script; the argument's default is 8-20",
        "task_token_format expand_emb: pretrain.sh cannot start, its argument class lacks the entry",
        "no gradient clipping: the trainer's is without effect under DeepSpeed",
        "normalise process: every micro-batch is divided by its own tokens, then all are averaged",
        "contrast over the targets of all processes, as published: the objective depends on the number of processes (8 "
        "there, 256 images); model.contrast_pool=micro_batch, a pool of fixed size, makes it independent of that",
    ),
    epochs=1,
    global_batch=256,
    micro_batch=32,
    data=Data(sources={"llava558k": LLAVA_558K}, mixture=WholeEpochs()),
    optim=AdamW(lr=1e-3),
    schedule=Cosine(warmup_ratio=0.03),
    normalise="process",
    precision="bf16",
    gradient_checkpointing=True,
    trainable=("projector", "predictors", "task_tokens", "logit_scales"),
    loss_weights={"text": 1.0, **EMBEDDING_WEIGHTS},
    max_length=4096,
    model={"image_aspect": "square"},
    init=Init(published={"language": LLAMA3, "tower": CLIP}),
    zero=2,
    checkpoint_every=200,
    keep_last=3,
)

IFT = PT.replace(
    number=2,
    name="ift",
    title="visual instruction tuning: language model and projector",
    origin="scripts/train/finetune.sh",
    notes=(
        "the image tower stays frozen and so do the task tokens (freeze_task_token defaults to True here)",
        "no gradient clipping: the trainer's is without effect under DeepSpeed",
    ),
    global_batch=128,
    micro_batch=16,
    data=Data(sources={"llava665k": LLAVA_665K}, mixture=ByLength(by_modality=True)),
    validation=BENCHMARKS,
    optim=AdamW(lr=2e-5),
    trainable=("language", "projector"),
    loss_weights={"text": 1.0},
    model={"image_aspect": "pad", "predictors": False},
    init=Init(stage="pt"),
)

VPT = IFT.replace(
    number=3,
    name="vpt",
    title="visual pre-training on detailed captions: language model and projector",
    origin="scripts/train/vpt.sh",
    notes=(*IFT.notes, "the documents say that the whole model is trained; the script leaves the tower frozen"),
    data=IFT.data.replace(sources={"allava_caption": ALLAVA_CAPTION}),
    validation={},
)

VPT_IFT = IFT.replace(
    number=4,
    name="vpt-ift",
    title="visual instruction tuning after visual pre-training",
    origin="scripts/train/vpt_ift.sh",
    init=Init(stage="vpt"),
)

# assumed: a fine-tune on somebody's own conversations or captions.
FINETUNE = IFT.replace(
    number=6,
    name="finetune",
    title="own data (--own FILE): conversations or captions",
    origin="assumed; model and losses of visual instruction tuning",
    notes=(
        "assumed: 1,000 steps of 32 conversations at half the published rate, the batch being a quarter",
        "assumed: a warm-up of 3 % and a cosine to 0, as published, whatever the number of steps",
        "assumed: evaluated and saved five times, whatever the number of steps",
    ),
    epochs=None,
    steps=1_000,
    global_batch=32,
    micro_batch=4,
    data=IFT.data.replace(sources={}),
    validation={},
    eval_every=0.2,
    optim=AdamW(lr=1e-5),
    normalise="global",
    init=Init(stage="ift"),
    checkpoint_every=0.2,
)

PROBE = PT.replace(
    number=5,
    name="probe",
    title="a predictor at every layer of a frozen model: how much depth, segmentation or generation knowledge is there",
    origin="scripts/train/probe.sh; docs/Probing.md",
    notes=(
        "one task a run: --set model.probe=depth, seg or gen",
        "one pass as in the script; the documents say two",
        "task tokens are inserted in training and in testing; the released code inserts them in training only",
    ),
    data=Data(sources={"coco_probe": COCO_PROBE}, mixture=ByLength(by_modality=True)),
    validation={"coco_probe_val": PROBE_VAL},
    trainable=("probes",),
    loss_weights={},
    model={"image_aspect": "pad", "predictors": False, "probe": "depth"},
    init=Init(stage="ift"),
)

# assumed: everything about the tiny variant is ours, chosen so that the sample scenes train in minutes on two cores.
# Language model and image tower start from random weights where the published ones are pre-trained, so the first tiny
# stage trains both; later ones train what the published ones do.
DEMO_CAPTIONS = LLAVA_558K.replace(annotations="visper/captions_train.json", images="visper/images")
DEMO_QUESTIONS = LLAVA_665K.replace(annotations="visper/questions_train.json", images="visper/images")
COCO_CAPTIONS = Source(
    weight=1.0,
    format="COCO captions",
    annotations="visper/annotations/captions_train2017.json",
    images="visper/train2017",
)
DEMO_VAL = Validation(
    metrics=("accuracy", "chance"),
    annotations="visper/questions_val.jsonl",
    images="visper/images",
    format="questions",
    batch_size=ANSWERED_TOGETHER,
    options={"max_new_tokens": 8, "of": "questions", "chance_from": "visper/questions_train.json"},
)
ON_A_LAPTOP: dict[str, Any] = {
    "epochs": None,  # steps are counted instead
    "normalise": "global",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "max_length": 512,
    "zero": 0,
}
TINY_PT = PT.replace(
    **ON_A_LAPTOP,
    title="captions of sample scenes from random weights, for laptops, tests and examples",
    origin="assumed; structure and losses of the published recipe",
    notes=("language model and image tower are trained as well: they start from random weights",),
    steps=1000,
    global_batch=16,
    micro_batch=16,
    data=PT.data.replace(sources={"captions": DEMO_CAPTIONS, "coco_captions": COCO_CAPTIONS.replace(weight=0.2)}),
    optim=AdamW(lr=1e-3, betas=(0.9, 0.95), clip_grad_norm=1.0),
    trainable=(*PT.trainable, "language", "tower"),
    init=Init(optional=True),
    checkpoint_every=500,
)
TINY_IFT = IFT.replace(
    **ON_A_LAPTOP,
    title="questions about sample scenes, for laptops, tests and examples",
    origin=TINY_PT.origin,
    notes=(),
    steps=800,
    global_batch=16,
    micro_batch=16,
    data=IFT.data.replace(sources={"questions": DEMO_QUESTIONS, "coco_captions": COCO_CAPTIONS}),
    validation={"demo_val": DEMO_VAL},
    eval_every=200,
    best_metric="demo_val/accuracy",
    optim=AdamW(lr=5e-4, betas=(0.9, 0.95), clip_grad_norm=1.0),
    init=Init(stage="pt", optional=True),
    checkpoint_every=400,
)

TINY_FINETUNE = TINY_IFT.replace(
    number=6,
    name="finetune",
    title="own data with a tiny model, for laptops, tests and examples; without --own the sample questions",
    data=TINY_IFT.data.replace(sources={"questions": DEMO_QUESTIONS}),
    init=Init(stage="ift", optional=True),
)

TINY_PROBE = PROBE.replace(
    **ON_A_LAPTOP,
    title="how much of each layer's hidden states predicts depth features, for laptops, tests and examples",
    origin=TINY_PT.origin,
    notes=PROBE.notes[:1],
    steps=150,
    global_batch=8,
    micro_batch=8,
    data=PROBE.data.replace(
        sources={
            "coco_probe": COCO_PROBE.replace(
                annotations="visper/annotations/captions_train2017.json", images="visper/train2017"
            )
        }
    ),
    validation={
        "coco_probe_val": PROBE_VAL.replace(
            annotations="visper/annotations/captions_val2017.json",
            images="visper/val2017",
            options={**PROBE_VAL.options, "squash_px": 128},
        ),
    },
    optim=AdamW(lr=2e-3, clip_grad_norm=1.0),
    init=Init(stage="ift", optional=True),
    checkpoint_every=150,
)

_STARTS = {
    "llama3-vit": {"language": LLAMA3, "tower": CLIP},
    "llama3-convnext": {"language": LLAMA3, "tower": CONVNEXT},
    "phi3-vit": {"language": PHI3, "tower": CLIP},
    "phi3-convnext": {"language": PHI3, "tower": CONVNEXT},
    "llava15-llama3-vit": {"language": LLAMA3, "tower": CLIP},
}
"""What the first stage of each published variant starts from: language model and image tower."""

_TUNED = {
    "llama3-vit": "hf://shi-labs/OLA-VLM-CLIP-ViT-Llama3-8b",
    "llama3-convnext": "hf://shi-labs/OLA-VLM-CLIP-ConvNeXT-Llama3-8b",
    "phi3-vit": "hf://shi-labs/OLA-VLM-CLIP-ViT-Phi3-4k-mini",
    "phi3-convnext": "hf://shi-labs/OLA-VLM-CLIP-ConvNeXT-Phi3-4k-mini",
}
"""What a fine-tune starts from; the baseline's weights are not published, a run of its own is needed."""


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant, in training order."""
    if variant == "tiny":
        return (TINY_PT, TINY_IFT, TINY_PROBE, TINY_FINETUNE)
    first = PT.replace(init=Init(published=_STARTS[variant]))
    if variant.startswith("llava15"):
        probe = PROBE.replace(model={**PROBE.model, "tasks": ("gen", "depth", "seg")})  # it has none of its own
        return (_baseline(first), IFT, probe, FINETUNE)
    tuned = FINETUNE.replace(init=Init(stage="ift", published=_TUNED[variant]))
    return (first, IFT, VPT, VPT_IFT, PROBE, tuned)


def _baseline(first: Stage) -> Stage:
    """Pre-training of plain LLaVA-1.5: the projector alone, no task tokens, no embedding losses."""
    return first.replace(
        title="captions: the projector is trained, the language model is frozen",
        origin="scripts/train/pretrain.sh without --mode, ola_vlm/train/train.py",
        notes=first.notes[-2:],
        trainable=("projector",),
        loss_weights={"text": 1.0},
    )
