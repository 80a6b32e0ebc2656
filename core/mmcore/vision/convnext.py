"""CLIP's ConvNeXt trunk (Liu et al. 2022, open_clip) through timm: the last map before its head, row by row."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mmcore.errors import RecipeError
from mmcore.weights.maps import Rule

CLIP_CONVNEXT = "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup-res768"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvNextTower:
    """Sizes of the trunk; the defaults are the XXL one at 768 pixels."""

    depths: tuple[int, ...] = (3, 4, 30, 3)
    dims: tuple[int, ...] = (384, 768, 1536, 3072)
    image_size: int = 768
    """Side of the picture, pixels."""
    eps: float = 1e-5
    drop_path: float = 0.0
    """Stochastic depth while training. LLaVA's descendants train with 0.1, since their trainer puts the frozen tower
    into training mode; 0 gives the features that inference sees."""
    name: str = CLIP_CONVNEXT
    """What published configurations call it."""

    @property
    def channels(self) -> int:
        """Of one image token."""
        return self.dims[-1]

    @property
    def grid(self) -> int:
        """Image tokens along one side: the stem divides by 4, every later stage by 2."""
        return self.image_size // (4 * 2 ** (len(self.dims) - 1))

    @property
    def num_tokens(self) -> int:
        """Rows that are read of one picture."""
        return self.grid**2


class ConvNext(nn.Module):
    """The trunk; its head stays in the module, so that checkpoints are whole, and is never run.

    Args:
        config: sizes.

    Raises:
        RecipeError: timm is not installed.
    """

    def __init__(self, config: ConvNextTower) -> None:
        super().__init__()
        try:
            from timm.models.convnext import ConvNeXt
        except ImportError as error:
            raise RecipeError(
                "the ConvNeXt tower needs the package timm",
                where=f"vision tower {config.name}",
                do="pip install timm",
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

    def unread(self) -> tuple[str, ...]:
        """Names of the parts that nothing reads."""
        return ("trunk.head",)


def convnext_rules(ours: str) -> list[Rule]:
    """Names of open_clip's and of timm's files, and ours behind `ours`."""
    trunk = f"{ours}trunk."
    return [
        Rule("visual.trunk.*", f"{trunk}*"),  # open_clip
        Rule("stem.*", f"{trunk}stem.*"),  # timm
        Rule("stages.*", f"{trunk}stages.*"),
        Rule("head.norm.*", f"{trunk}head.norm.*"),
    ]
