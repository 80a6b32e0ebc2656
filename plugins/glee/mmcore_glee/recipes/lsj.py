"""GLEE Pro (EVA02-L) on images: large-scale jitter to a square of 1536 pixels."""

from mmcore import AdamW, Init, MultiStep

from mmcore_glee.config import PRO
from mmcore_glee.recipes.multiscale import CLIP, HUB, LITE_FINETUNE, LITE_JOINT, LITE_PRETRAIN, LITE_SCALEUP
from mmcore_glee.recipes.sources import SA1B, VG_OBJECTS, VG_REGIONS, YTVOS_FRAMES

LSJ = {  # base of the Pro files, INPUT
    "pipeline": "lsj",
    "image_size": 1536,
    "min_scale": 0.1,
    "max_scale": 2.0,
    "flip_probability": 0.5,
    "pad_value": 128,
}
DECAY = 0.8
"""LR_DECAY_RATE: factor on the rate from each block of the image encoder to the one before it."""


def layer_decay(depth: int) -> dict[str, float]:
    """Factors on the learning rate of the image encoder's parts: the later, the larger; the pyramid has the full rate.

    Args:
        depth: transformer blocks.
    """
    first = {f"backbone.net.{part}": DECAY ** (depth + 1) for part in ("pos_embed", "patch_embed")}
    return first | {f"backbone.net.blocks.{i}": DECAY ** (depth - i) for i in range(depth)}


_OPTIM = AdamW(lr=1e-4, weight_decay=0.1, multipliers=layer_decay(PRO.eva_depth), clip_grad_norm=0.01)
_SCHEDULE = MultiStep(milestones=(400_000,), warmup_steps=1_000, warmup_factor=1e-2)
_BACKBONE = (
    "backbone: eva02_L_pt_m38m_p14to16.pt of baaivision/EVA, as downloaded or converted, into the folder weights"
)

PRO_PRETRAIN = LITE_PRETRAIN.replace(
    origin="configs/images/Pro/Stage1_pretrain_openimage_obj365_CLIPfrozen_EVA02L_LSJ1536.yaml",
    notes=("global_batch 128: IMS_PER_BATCH; with one image on each GPU that is 128 GPUs", _BACKBONE),
    micro_batch=1,
    data=LITE_PRETRAIN.data.replace(transform=LSJ),
    eval_every=10_000,
    optim=_OPTIM,
    schedule=_SCHEDULE,
    gradient_checkpointing=True,
    init=Init(published=(f"{HUB}/converted_maskdino_r50_withoutclip.pth", CLIP, "eva02_L_pt_m38m_p14to16.pt")),
    checkpoint_every=20_000,
)

PRO_JOINT = LITE_JOINT.replace(
    origin="configs/images/Pro/Stage2_joint_training_CLIPteacher_EVA02L.yaml",
    notes=(
        "repeat-factor sampling: asked for on openimage, obj365 and lvis, but REPEAT_THRESHOLD 0 makes every factor 1",
        "precision: bf16 here, fp16 with a loss scaler in the published code",
        "text encoder: trained at the full rate, for the Pro files set no multiplier for it",
    ),
    steps=500_000,
    data=LITE_JOINT.data.replace(
        sources={
            **LITE_JOINT.data.sources,
            "vg": VG_OBJECTS.replace(weight=1.0),
            "vg_regions": VG_REGIONS.replace(weight=1.0),
            "sa1b": SA1B.replace(weight=2.5, annotations="SA1B_scaleup/sa1b_1m.json"),
            "refytb": YTVOS_FRAMES,
        },
        transform=LSJ,
    ),
    eval_every=20_000,
    optim=_OPTIM,
    schedule=_SCHEDULE,
    gradient_checkpointing=True,
    init=Init(stage="pretrain", published=f"{HUB}/GLEE_Pro_pretrain.pth"),
    checkpoint_every=20_000,
)

PRO_SCALEUP = PRO_JOINT.replace(
    number=3,
    name="scaleup",
    title=LITE_SCALEUP.title,
    origin="configs/images/Pro/Stage3_scaleup_CLIPteacher_EVA02L.yaml",
    notes=(
        *PRO_JOINT.notes,
        "init: the YAML starts from the pretrain weights, the documents from the stage before, as for Lite and Plus; "
        "the documents are followed",
    ),
    data=PRO_JOINT.data.replace(
        sources={
            **PRO_JOINT.data.sources,
            "grit": LITE_SCALEUP.data.sources["grit"],
            "sa1b": SA1B.replace(weight=5.0, annotations="SA1B_scaleup/sa1b_2m.json"),
            "refytb": YTVOS_FRAMES.replace(weight=0.2),
        },
    ),
    init=Init(stage="joint", published=f"{HUB}/GLEE_Pro_joint.pth"),
)

# assumed: as Lite's fine-tune, with the published layer decay below its smaller rate.
PRO_FINETUNE = LITE_FINETUNE.replace(
    micro_batch=1,
    data=LITE_FINETUNE.data.replace(transform=LSJ),
    optim=LITE_FINETUNE.optim.replace(
        weight_decay=0.1, multipliers={**layer_decay(PRO.eva_depth), "text_encoder": 0.1}
    ),
    gradient_checkpointing=True,
    init=Init(stage="scaleup", published=f"{HUB}/GLEE_Pro_scaleup.pth"),
)
