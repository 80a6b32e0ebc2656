"""The stages of Griffon as data, each number with where it comes from."""

from mmcore import AdamW, Cosine, Data, Init, Source, Stage, Validation

ALIGN = Stage(
    number=1,
    name="alignment",
    title="captions: the projector is trained",
    origin="scripts/gemma2/alignment.sh",
    epochs=1.0,
    global_batch=256,
    micro_batch=4,
    data=Data(
        sources={
            "share_captioner": Source(
                weight=1.0,
                format="LLaVA JSON",
                annotations="ShareGPT4V/share-captioner_coco_lcs_sam_1246k_1107.json",
                images="ShareGPT4V",
            )
        }
    ),
    optim=AdamW(lr=1e-3),
    schedule=Cosine(warmup_ratio=0.03),
    normalise="process",
    gradient_checkpointing=True,
    trainable=("projector",),
    loss_weights={"text": 1.0},
    max_length=2048,
    init=Init(published=("hf://google/gemma-2-9b-it", "hf://openai/clip-vit-large-patch14-336")),
    zero=2,
)

TINY_ALIGN = ALIGN.replace(
    title="sample scenes from random weights, for laptops, tests and examples",
    origin="assumed",
    epochs=None,
    steps=200,
    global_batch=16,
    micro_batch=16,
    data=Data(
        sources={
            "scenes": Source(weight=1.0, format="LLaVA JSON", annotations="griffon/train.json", images="griffon/train")
        }
    ),
    validation={
        "scenes_val": Validation(
            metrics=("accuracy",),
            annotations="griffon/val.json",
            images="griffon/val",
            format="questions",
            batch_size=8,
        )
    },
    optim=AdamW(lr=1e-3, clip_grad_norm=1.0),
    normalise="global",
    precision="fp32",
    gradient_checkpointing=False,
    trainable=("projector", "language", "tower"),
    max_length=512,
    init=Init(optional=True),
    zero=0,
    checkpoint_every=100,
)


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant, in training order."""
    return (TINY_ALIGN,) if variant.startswith("tiny") else (ALIGN,)
