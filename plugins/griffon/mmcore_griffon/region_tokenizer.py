"""The region tokenizer: a visual prompt's crop to one token of the language model (Griffon v2, section 3.3).

    crop, 224 px -> CLIP ViT-L/14 of its own, frozen -> class token of the last layer -> linear, ReLU, linear -> token

The class token is taken before CLIP's last norm, as in the released code.
"""

import torch
from jaxtyping import Float
from mmcore.vision.clip_vit import ClipTower, ClipVit
from torch import Tensor, nn


class RegionTokenizer(nn.Module):
    """One token for each crop.

    Args:
        tower: of the encoder; selects the class token.
        width: channels of the language model.
    """

    def __init__(self, tower: ClipTower, width: int) -> None:
        super().__init__()
        self.encoder = ClipVit(tower).requires_grad_(False)
        self.projector = nn.Sequential(nn.Linear(tower.channels, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, crops: Float[Tensor, "regions 3 side side"]) -> Float[Tensor, "regions 1 width"]:
        """The tokens; the encoder never learns, so it keeps nothing for the backward pass."""
        with torch.no_grad():
            seen = self.encoder(crops)
        return self.projector(seen)
