"""The stages of GLaMM as data. Say beside each number where it comes from."""

from mmcore import AdamW, Cosine, Data, Init, Source, Stage, Validation

CHAT = Source(weight=1.0, format="LLaVA JSON", annotations="glamm/train.json", images="glamm/train")

ALIGN = Stage(
    number=1,
    name="align",
    title="the projector learns to speak the language model's language",
    origin="assumed, after LLaVA-1.5",
    epochs=1.0,
    global_batch=256,
    micro_batch=32,
    data=Data(sources={"chat": CHAT}),
    validation={
        "chat_val": Validation(
            metrics=("accuracy",),
            annotations="glamm/val.json",
            images="glamm/val",
            format="questions",
            batch_size=8,
        )
    },
    best_metric="chat_val/accuracy",
    optim=AdamW(lr=1e-3, clip_grad_norm=1.0),
    schedule=Cosine(warmup_ratio=0.03),
    trainable=("projector",),
    loss_weights={"text": 1.0},
    max_length=2048,
    init=Init(published=("hf://lmsys/vicuna-7b-v1.5", "hf://openai/clip-vit-large-patch14-336")),
)

INSTRUCT = ALIGN.replace(
    number=2,
    name="instruct",
    title="projector and language model learn to answer",
    global_batch=128,
    micro_batch=16,
    optim=AdamW(lr=2e-5, clip_grad_norm=1.0),
    trainable=("projector", "language"),
    gradient_checkpointing=True,
    zero=3,
    init=Init(stage="align"),
)

ON_A_LAPTOP = {
    "epochs": None,
    "steps": 200,
    "global_batch": 16,
    "micro_batch": 16,
    "precision": "fp32",
    "gradient_checkpointing": False,
    "zero": 0,
    "max_length": 256,
    "checkpoint_every": 100,
}
TINY = (
    ALIGN.replace(**ON_A_LAPTOP, init=Init(optional=True)),
    INSTRUCT.replace(**ON_A_LAPTOP, optim=AdamW(lr=1e-3, clip_grad_norm=1.0), init=Init(stage="align", optional=True)),
)


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant, in training order."""
    return {"7b": (ALIGN, INSTRUCT), "tiny": TINY}[variant]
