"""From the state of the language model that predicts a `[SEG]` to a prompt of SAM (LISA, Lai et al. 2024)."""

from torch import nn


class SegProjection(nn.Sequential):
    """The hidden state that predicts a `[SEG]` to a prompt of the mask decoder (LISA, Lai et al. 2024)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))
