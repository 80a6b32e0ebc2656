"""The stages of tiny variants: the published recipes on sample pictures, for laptops, tests and examples.

assumed: everything here is ours, chosen so that the three stages take minutes on two cores. Language model and tower
start from random weights where the published ones are trained, so every stage trains both.
"""

from typing import Any

from mmcore import AdamW, Data, Init, Source, Stage, Validation, WholeEpochs
from mmcore.contract.mixture import SourcePerBatch

from mmcore_griffon import recipes
from mmcore_griffon.recipes import GENERAL, LOCALISATION, PROMPTED

PICTURES = "griffon/pictures"
ORIGIN = "assumed; structure of the published recipe"


def _source(name: str, kind: str, weight: float = 1.0, **more: Any) -> Source:
    file = f"griffon/{name}.{'json' if kind == 'LLaVA JSON' else 'jsonl'}"
    images = "" if name == "text" else PICTURES
    return Source(weight=weight, format=kind, annotations=file, images=images, **more)


ON_A_LAPTOP: dict[str, Any] = {
    "epochs": None,  # steps are counted instead
    "global_batch": 16,
    "micro_batch": 16,
    "normalise": "global",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "max_length": 512,
    "zero": 0,
    "origin": ORIGIN,
    "notes": ("language model and tower are trained as well: they start from random weights",),
    "trainable": ("language", "projector", "tower"),
    "keep_last": 2,
}
_RATE: dict[str, Any] = {"betas": (0.9, 0.95), "clip_grad_norm": 1.0}

REC_VAL = Validation(
    metrics=("accuracy@0.5", "chance", "parse_rate"),
    format="REC lines",
    annotations="griffon/REC_shapes_val.jsonl",
    images=PICTURES,
    batch_size=16,
    options={"max_new_tokens": 48},
)
DET_VAL = Validation(
    metrics=("bbox/AP50", "bbox/AP", "parse_rate"),
    format="COCO boxes",
    annotations="griffon/instances_val.json",
    images=PICTURES,
    batch_size=16,
    options={"answer_format": True, "max_new_tokens": 128},
)
COUNT_VAL = Validation(
    metrics=("MAE", "RMSE", "parse_rate"),
    format="VISJ lines",
    annotations="griffon/visj_val.jsonl",
    images=PICTURES,
    batch_size=16,
    options={"max_new_tokens": 160},
)

ALIGNMENT = recipes.ALIGNMENT.replace(
    **ON_A_LAPTOP,
    title="captions of sample pictures from random weights",
    steps=300,
    data=Data(sources={"captions": _source("captions", "LLaVA JSON")}, mixture=WholeEpochs()),
    optim=AdamW(lr=2e-3, **_RATE),
    init=Init(optional=True),
    checkpoint_every=300,
)
PRETRAIN = recipes.PRETRAIN.replace(
    **ON_A_LAPTOP,
    title="localisation of shapes",
    steps=2700,
    data=Data(
        sources={
            "det": _source("det", "DET lines", 2.0),  # its answers hold several boxes, so a step teaches more
            "reg": _source("reg", "REG lines", 0.5),
            "vg": _source("vg", "VG lines", 3.0),
            "text": _source("text", "LLaVA JSON", 0.1),
        },
        mixture=SourcePerBatch(),  # questions of one kind are about as long
    ),
    validation={"shapes_rec": REC_VAL},
    optim=AdamW(lr=2e-3, **_RATE),
    init=Init(stage="alignment", optional=True),
    eval_every=900,
    checkpoint_every=900,
)
INSTRUCT = recipes.INSTRUCT.replace(
    **ON_A_LAPTOP,
    title="shapes by class, expression and place, and questions about them",
    steps=1000,
    data=recipes.INSTRUCT.data.replace(
        sources={
            "general": _source("general", "LLaVA JSON", group=GENERAL),
            "text": _source("text", "LLaVA JSON", group=GENERAL),
            "det": _source("det", "DET lines", group=LOCALISATION),
            "reg": _source("reg", "REG lines", group=LOCALISATION),
            "vg": _source("vg", "VG lines", group=LOCALISATION),
            "randdet": _source("randdet", "RANDDET lines", group=LOCALISATION),
        }
    ),
    validation={"shapes_rec": REC_VAL, "shapes_det": DET_VAL},
    best_metric="shapes_rec/accuracy@0.5",
    optim=AdamW(lr=1e-3, **_RATE),
    init=Init(stage="pretrain", optional=True),
    eval_every=500,
    checkpoint_every=500,
)
VISUAL_REFERRING = recipes.VISUAL_REFERRING.replace(
    **{**ON_A_LAPTOP, "trainable": ("language", "projector", "region.projector")},
    title="shapes like the one that is shown",
    steps=600,
    data=recipes.VISUAL_REFERRING.data.replace(sources={"visj": _source("visj", "VISJ lines", group=PROMPTED)}),
    validation={"shapes_count": COUNT_VAL},
    optim=AdamW(lr=5e-4, **_RATE),
    init=Init(stage="instruct", optional=True),
    checkpoint_every=600,
)
FINETUNE = recipes.FINETUNE.replace(
    # A question that names 80 classes takes 450 of these tokens, a box of the answer 28: room for 38 boxes. What is
    # longer is cut and counted, as published code cuts it (without a word).
    **{**ON_A_LAPTOP, "max_length": 1536},
    title="own data with a tiny model; without --own the sample pictures",
    steps=400,
    data=recipes.FINETUNE.data.replace(sources={"vg": _source("vg", "VG lines")}),
    validation={"shapes_rec": REC_VAL},
    optim=AdamW(lr=5e-4, **_RATE),
    init=Init(stage="instruct", optional=True),
    checkpoint_every=0.5,
)
STAGES: tuple[Stage, ...] = (ALIGNMENT, PRETRAIN, INSTRUCT, VISUAL_REFERRING, FINETUNE)
