"""Sizes of SAM."""

from dataclasses import dataclass

from mmcore.errors import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamConfig:
    """Sizes of SAM; the defaults are ViT-H as published (`sam_vit_h_4b8939.pth`)."""

    image_size: int = 1024
    """Side of the padded square, pixels."""
    patch_size: int = 16
    hidden_size: int = 1280
    num_layers: int = 32
    num_heads: int = 16
    mlp_ratio: float = 4.0
    window_size: int = 14
    """Patches along the side of a window, within which all but the global layers attend."""
    global_layers: tuple[int, ...] = (7, 15, 23, 31)
    """Layers that attend over the whole picture, from 0."""
    out_channels: int = 256
    """Of the map, the prompts and the mask decoder."""
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    mask_prompt_channels: int = 16
    """Inside the encoder of mask prompts."""
    num_multimask: int = 3
    """Masks that SAM can give besides the one for a single mask."""
    iou_hidden: int = 256
    iou_depth: int = 3

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise RecipeError(
                f"{self.image_size} pixels are no whole number of patches of {self.patch_size}", where="model.sam"
            )
        if self.hidden_size % self.num_heads:
            raise RecipeError(
                f"{self.hidden_size} channels do not divide into {self.num_heads} heads", where="model.sam"
            )
        if wrong := [layer for layer in self.global_layers if not 0 <= layer < self.num_layers]:
            raise RecipeError(f"there is no layer {wrong[0]} of {self.num_layers}", where="model.sam.global_layers")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Of what the encoder says of one picture."""
        return self.out_channels, self.grid, self.grid
