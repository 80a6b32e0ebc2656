"""The published GLEE stages as data, and the tiny ones that run on a laptop.

    sources     what is trained on and validated with
    multiscale  Lite and Plus on images
    lsj         Pro on images
    video       all sizes on videos
    odinw       all sizes on thirteen small sets
    tiny        ours, for laptops

Numbers come from the YAML files below `projects/GLEE/configs` of FoundationVision/GLEE (commit 6f5a19d3) and, for file
names, from `projects/GLEE/glee/data`. Where documents and code differ the code is followed and a note says so.
"""

from mmcore import Stage

from mmcore_glee.recipes import odinw, video
from mmcore_glee.recipes.lsj import PRO_FINETUNE, PRO_JOINT, PRO_PRETRAIN, PRO_SCALEUP
from mmcore_glee.recipes.multiscale import (
    LITE_FINETUNE,
    LITE_JOINT,
    LITE_PRETRAIN,
    LITE_SCALEUP,
    PLUS_FINETUNE,
    PLUS_JOINT,
    PLUS_PRETRAIN,
    PLUS_SCALEUP,
)
from mmcore_glee.recipes.tiny import TINY_FINETUNE, TINY_JOINT, TINY_PRETRAIN, TINY_SCALEUP, TINY_VIDEO

_STAGES = {
    "lite": (LITE_PRETRAIN, LITE_JOINT, LITE_SCALEUP, LITE_FINETUNE, *video.stages("Lite"), odinw.stage(LITE_FINETUNE)),
    "plus": (PLUS_PRETRAIN, PLUS_JOINT, PLUS_SCALEUP, PLUS_FINETUNE, *video.stages("Plus"), odinw.stage(PLUS_FINETUNE)),
    "pro": (PRO_PRETRAIN, PRO_JOINT, PRO_SCALEUP, PRO_FINETUNE, *video.stages("Pro"), odinw.stage(PRO_FINETUNE)),
    # The first is what a laptop starts with: it needs no other stage's weights.
    "tiny": (TINY_JOINT, TINY_PRETRAIN, TINY_SCALEUP, TINY_FINETUNE, TINY_VIDEO),
}


def stages(variant: str) -> tuple[Stage, ...]:
    """Every stage of one variant; their numbers are the order of training."""
    return _STAGES[variant]
