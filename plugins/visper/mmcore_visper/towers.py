"""Vision towers: pictures in, one row per image patch out. CLIP's ViT, and its ConvNeXt through timm.

Only what is read is run: the ViT stops at the hidden state that is selected, the ConvNeXt before its head. The unused
parts stay in the module, so that checkpoints are whole.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from mmcore.errors import RecipeError
from torch import Tensor, nn

from mmcore_visper.config import ClipTower, ConvNextTower, Tower

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of RGB in [0, 1]; both towers take pictures so normalised."""


def build_tower(config: Tower) -> nn.Module:
    """The tower with random weights.

    Raises:
        RecipeError: the ConvNeXt's package is not installed.
    """
    return ClipVit(config) if isinstance(config, ClipTower) else ConvNext(config)


class ClipVit(nn.Module):
    """CLIP's vision transformer (Radford et al. 2021) up to an inner layer, without its class token.

    Written out rather than taken from transformers, whose attention refuses a batch of no pictures: a process with
    text only enters the same modules as the others with no rows at all, so that none waits for another.

    Args:
        config: sizes.
    """

    def __init__(self, config: ClipTower) -> None:
        super().__init__()
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.grid**2 + 1, width)
        # As CLIP starts: larger, the place of a patch would drown what is in it, and this tower is never trained.
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)
        self.pre_norm = nn.LayerNorm(width, eps=config.eps)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_layers))
        self.post_norm = nn.LayerNorm(width, eps=config.eps)
        layer = config.select_layer
        self.num_run = layer if layer >= 0 else config.num_layers + 1 + layer

    def forward(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images patches channels"]:
        """Hidden state of every patch, row by row."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.to(patches.dtype).expand(len(images), 1, -1), patches], dim=1)
        hidden = self.pre_norm(tokens + self.position_embedding(torch.arange(tokens.shape[1], device=tokens.device)))
        for layer in self.layers[: self.num_run]:
            hidden = layer(hidden)
        return hidden[:, 1:]


class ClipLayer(nn.Module):
    """Attention and feed-forward part of CLIP, each behind its norm."""

    def __init__(self, config: ClipTower) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.act = _ACTIVATIONS[config.act]

    def forward(self, hidden: Float[Tensor, "images tokens channels"]) -> Float[Tensor, "images tokens channels"]:
        normed = self.norm1(hidden)
        q, k, v = (self._heads(project(normed)) for project in (self.q_proj, self.k_proj, self.v_proj))
        attended = F.scaled_dot_product_attention(q, k, v)
        hidden = hidden + self.out_proj(attended.transpose(1, 2).flatten(2))
        return hidden + self.fc2(self.act(self.fc1(self.norm2(hidden))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the activation CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class ConvNext(nn.Module):
    """CLIP's ConvNeXt trunk; its last map, row by row.

    Args:
        config: sizes.
    """

    def __init__(self, config: ConvNextTower) -> None:
        super().__init__()
        try:
            from timm.models.convnext import ConvNeXt
        except ImportError as error:
            raise RecipeError(
                "the ConvNeXt tower needs the package timm",
                where=f"vision tower {config.name}",
                do="pip install 'mmcore-visper[convnext]'",
            ) from error
        self.trunk: Any = ConvNeXt(
            num_classes=0,
            depths=config.depths,
            dims=config.dims,
            norm_eps=config.eps,
            drop_path_rate=config.drop_path,
        )

    def forward(self, images: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images patches channels"]:
        """Features of every patch."""
        trunk = self.trunk
        return trunk.norm_pre(trunk.stages(trunk.stem(images))).flatten(2).transpose(1, 2)


def build_projector(tower: Tower, width: int) -> nn.Sequential:
    """`mlp2x_gelu`: from the tower's channels to the language model's."""
    return nn.Sequential(nn.Linear(tower.channels, width), nn.GELU(), nn.Linear(width, width))


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (..., 3, height, width) to what the towers take."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std
