"""From the state of the language model that predicts a `[SEG]` to a prompt of SAM (LISA, Lai et al. 2024)."""

import torch
from torch import nn


class SegProjection(nn.Sequential):
    """The hidden state that predicts a `[SEG]` to a prompt of the mask decoder (LISA, Lai et al. 2024)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))


@torch.no_grad()
def keep_variance(*parts: nn.Module) -> None:
    """Scale drawn weights of linear layers so that what they give varies as what they get; changed in place.

    torch draws them with a variance of 1 / (3 fan_in), which leaves a prompt a few percent of the size of the mask
    decoder's own tokens: from random weights, masks then learn what all phrases share and for long nothing else.
    Published weights are trained and take no part in this.
    """
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3**0.5)
        if isinstance(part, SegProjection):
            part.get_parameter("0.weight").mul_(2**0.5)  # its ReLU halves the variance
