"""CLIP's vision transformer (Radford et al. 2021): pictures in, the hidden states that a family reads out.

Written out rather than taken from transformers, whose attention refuses a batch of no pictures: a process with text
only enters the same modules as the others with no rows at all, so that none waits for another. Only what is read is
run; the unused layers stay in the module, so that checkpoints are whole.

    LLaVA, VisPer-LM   the last but one state without its class token
    GLaMM              the same, and four states in a row of three apart for its region encoder (`hidden_states`)
    Griffon            the last but one state at 448 or 1022 pixels (`resize_positions`), and of a region's crop
                       the class token of the last state
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcore.errors import RecipeError, WeightsError
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.vit_tower import VitTower
from mmcore.weights.maps import Rule

CLIP_VIT = "openai/clip-vit-large-patch14-336"
Feature = Literal["patch", "cls_patch", "cls"]
"""Of the selected state: its patches, the class token and its patches, the class token alone. LLaVA's words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTower(VitTower):
    """Sizes of CLIP's vision transformer, and what is read of it; the defaults are ViT-L/14-336 as LLaVA reads it."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    image_size: int = 336
    select_feature: Feature = "patch"
    """Which rows of the selected state."""
    act: str = "quick_gelu"
    eps: float = 1e-5
    projection_dim: int = 768
    """Of the joint space with text; unused here, kept for exported configurations."""
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    name: str = CLIP_VIT
    """What published configurations call it."""

    def __post_init__(self) -> None:
        for what, given, known in (
            ("activation", self.act, tuple(ACTIVATIONS)),
            ("select_feature", self.select_feature, get_args(Feature)),
        ):
            if given not in known:
                raise RecipeError(f"tower: unknown {what} {given!r}", known=known)
        VitTower.__post_init__(self)

    @property
    def num_tokens(self) -> int:
        """Rows that are read of one picture."""
        return {"patch": self.grid**2, "cls_patch": self.grid**2 + 1, "cls": 1}[self.select_feature]


class ClipVit(nn.Module):
    """The transformer; its forward gives the selected rows of the selected state.

    Args:
        config: sizes, and what is read.
    """

    def __init__(self, config: ClipTower) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.grid**2 + 1, width)
        # As CLIP starts: larger, the place of a patch would drown what is in it, and this tower is seldom trained.
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)
        self.pre_norm = nn.LayerNorm(width, eps=config.eps)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_layers))
        self.post_norm = nn.LayerNorm(width, eps=config.eps)

    def forward(
        self, images: Float[Tensor, "images 3 side side"], layers: Iterable[int] | None = None
    ) -> Float[Tensor, "images tokens channels"] | tuple[Float[Tensor, "images positions channels"], ...]:
        """The rows that `config.select_feature` names, patches row by row of the picture; with `layers` the whole
        states of these, in order: a call of the module, which engines that gather weights around calls wait for."""
        if layers is not None:
            wanted = tuple(layers)
            found = self.hidden_states(images, wanted)
            return tuple(found[layer] for layer in wanted)
        state = self.config.state(self.config.select_layer)
        return self.select(self.hidden_states(images, [state])[state])

    def hidden_states(
        self, images: Float[Tensor, "images 3 side side"], layers: Iterable[int]
    ) -> dict[int, Float[Tensor, "images positions channels"]]:
        """Several hidden states of one pass, class token first; no layer behind the last of them is run.

        Args:
            images: normalised as CLIP's are.
            layers: as `ClipTower.state` counts them; the result has the same keys.
        """
        wanted = {layer: self.config.state(layer) for layer in layers}
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.to(patches.dtype).expand(len(images), 1, -1), patches], dim=1)
        hidden = self.pre_norm(tokens + self.position_embedding(torch.arange(tokens.shape[1], device=tokens.device)))
        kept = {0: hidden}
        for number, layer in enumerate(self.layers[: max(wanted.values(), default=0)], 1):
            hidden = layer(hidden)
            kept |= {number: hidden} if number in wanted.values() else {}
        return {layer: kept[state] for layer, state in wanted.items()}

    def select(self, hidden: Float[Tensor, "images positions channels"]) -> Float[Tensor, "images tokens channels"]:
        """Of a hidden state, the rows that the configuration names."""
        first, end = {"patch": (1, None), "cls_patch": (0, None), "cls": (0, 1)}[self.config.select_feature]
        return hidden[:, first:end]

    def unread(self, *others: int) -> tuple[str, ...]:
        """Names of the parts that nothing reads, where besides the selected state only `others` are read."""
        last = max(self.config.state(layer) for layer in (self.config.select_layer, *others))
        return ("post_norm", *(f"layers.{number}" for number in range(last, self.config.num_layers)))


class LayerSizes(Protocol):
    """What one layer needs to know of its tower."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def eps(self) -> float: ...
    @property
    def act(self) -> str: ...


class ClipLayer(nn.Module):
    """Attention and feed-forward part of CLIP and SigLIP, each behind its norm."""

    def __init__(self, config: LayerSizes) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.act = ACTIVATIONS[config.act]

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


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
"""By the names of transformers' configurations."""


def resize_positions(positions: Float[Tensor, "stored channels"], grid: int) -> Float[Tensor, "positions channels"]:
    """Learned positions for another resolution, as Griffon's CLIP was enlarged to 448 and 1022 pixels.

    Bicubic with antialiasing, also when enlarging: torch's antialiased kernel is another cubic than the plain one, and
    the difference is several per cent of the signal.

    Args:
        positions: the class token's first, then a square row by row.
        grid: wanted patches along one side.

    Raises:
        WeightsError: the stored ones are no class token and a square.
    """
    stored = round((len(positions) - 1) ** 0.5)
    if stored**2 + 1 != len(positions):
        raise WeightsError(f"{len(positions)} positions are no class token and a square", where="position_embedding")
    if stored == grid:
        return positions
    square = positions[1:].float().unflatten(0, (stored, stored)).permute(2, 0, 1)[None]
    resized = F.interpolate(square, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized[0].permute(1, 2, 0).flatten(0, 1).to(positions.dtype)])


LAYER_NAMES = {
    **{f"self_attn.{part}": part for part in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


def clip_rules(published: str, ours: str, *, grid: int | None = None) -> list[Rule]:
    """Names of CLIP's files, version 4 and 5 of transformers, and ours.

    Args:
        published: before theirs, such as "vision_model.".
        ours: before ours, such as "tower.".
        grid: patches along a side; positions learned for another resolution are then resized when they are read.
    """
    resize = None if grid is None else lambda positions: resize_positions(positions, grid)
    embeddings = f"{published}embeddings."
    return [
        Rule(f"{embeddings}class_embedding", f"{ours}class_embedding"),
        Rule(f"{embeddings}patch_embedding.weight", f"{ours}patch_embedding.weight"),
        Rule(f"{embeddings}position_embedding.weight", f"{ours}position_embedding.weight", to_ours=resize),
        Rule(f"{published}pre_layrnorm.*", f"{ours}pre_norm.*"),
        Rule(f"{published}post_layernorm.*", f"{ours}post_norm.*"),
        *(Rule(f"{published}encoder.layers.*.{a}.*", f"{ours}layers.*.{b}.*") for a, b in LAYER_NAMES.items()),
    ]
