"""SAM as one part of a model: a picture's map, the prompt encoder and the mask decoder."""

import torch
from torch import nn

from mmcore.vision.sam.config import SamConfig
from mmcore.vision.sam.decoder import MaskDecoder, PromptEncoder
from mmcore.vision.sam.encoder import SamEncoder

SEED = 2023
"""Of the tiny variants' image encoder."""


class Sam(nn.Module):
    """The three parts of SAM.

    Args:
        config: sizes.
        fixed: whether the image encoder is the one that tiny variants share, whose values never change.
    """

    def __init__(self, config: SamConfig, *, fixed: bool = False) -> None:
        super().__init__()
        encoder = fixed_encoder(config) if fixed else SamEncoder(config)
        self.image_encoder = encoder.requires_grad_(False)
        self.prompt_encoder = PromptEncoder(config).requires_grad_(False)
        self.mask_decoder = MaskDecoder(config)


def fixed_encoder(config: SamConfig) -> SamEncoder:
    """The image encoder of tiny variants: drawn from a seed of its own, so that caches of its maps hold for any run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return SamEncoder(config)
