"""SigLIP's vision transformer (Zhai et al. 2023): patches in, the hidden state that a language model reads out.

CLIP's layers with another beginning and end: no class token, no norm before the first layer, patches with a bias. Its
pooling head is for comparison with captions; nothing here reads it, so it is left out.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcore.errors import RecipeError
from mmcore.vision.clip_vit import ACTIVATIONS, LAYER_NAMES, ClipLayer
from mmcore.vision.vit_tower import VitTower
from mmcore.weights.maps import Rule

SIGLIP_VIT = "google/siglip-so400m-patch14-384"


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipTower(VitTower):
    """Sizes of SigLIP's vision transformer, and what is read of it; the defaults are SO400M/14-384. The last hidden
    state stands before the last norm."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_layers: int = 27
    num_heads: int = 16
    image_size: int = 384
    act: str = "gelu_pytorch_tanh"
    eps: float = 1e-6
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    name: str = SIGLIP_VIT
    """What configurations call it."""

    def __post_init__(self) -> None:
        if self.act not in ACTIVATIONS:
            raise RecipeError(f"tower: unknown activation {self.act!r}", known=tuple(ACTIVATIONS))
        VitTower.__post_init__(self)

    @property
    def num_tokens(self) -> int:
        """Rows that are read of one picture."""
        return self.grid**2


class SiglipVit(nn.Module):
    """The transformer; only what is read is run, the other layers stay so that checkpoints are whole.

    Args:
        config: sizes, and what is read.
    """

    def __init__(self, config: SiglipTower) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.position_embedding = nn.Embedding(config.grid**2, width)
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_layers))
        self.post_norm = nn.LayerNorm(width, eps=config.eps)

    def forward(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images tokens channels"]:
        """The selected hidden state, patches row by row of the picture."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        hidden = patches + self.position_embedding(torch.arange(patches.shape[1], device=patches.device))
        for layer in self.layers[: self.config.state(self.config.select_layer)]:
            hidden = layer(hidden)
        return hidden

    def unread(self) -> tuple[str, ...]:
        """Names of the parts that nothing reads."""
        last = self.config.state(self.config.select_layer)
        return ("post_norm", *(f"layers.{number}" for number in range(last, self.config.num_layers)))


def siglip_rules(published: str, ours: str) -> list[Rule]:
    """Names of SigLIP's files, version 4 and 5 of transformers, and ours.

    Args:
        published: before theirs, such as "vision_model.".
        ours: before ours, such as "tower.".
    """
    embeddings = f"{published}embeddings."
    return [
        Rule(f"{embeddings}patch_embedding.*", f"{ours}patch_embedding.*"),
        Rule(f"{embeddings}position_embedding.weight", f"{ours}position_embedding.weight"),
        Rule(f"{published}post_layernorm.*", f"{ours}post_norm.*"),
        *(Rule(f"{published}encoder.layers.*.{a}.*", f"{ours}layers.*.{b}.*") for a, b in LAYER_NAMES.items()),
    ]
