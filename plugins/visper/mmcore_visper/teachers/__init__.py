"""The teachers of VisPer-LM: frozen networks whose features the language model learns to predict.

    depth   Depth-Anything-V2's DINOv2          `teachers.depth`
    seg     OneFormer's Swin backbone           `teachers.seg`
    gen     Stable Diffusion unCLIP's CLIP      `teachers.gen`
    any     random features, for the tiny size  `teachers.random`

Each is described by a small `mmcore.vision.extractors.Extractor`; `Extractors` are the loaded ones.
"""

from mmcore_visper.teachers.depth import DepthTeacher
from mmcore_visper.teachers.gen import GenTeacher
from mmcore_visper.teachers.random import RandomTeacher
from mmcore_visper.teachers.seg import SegTeacher

__all__ = ["DepthTeacher", "GenTeacher", "RandomTeacher", "SegTeacher"]
