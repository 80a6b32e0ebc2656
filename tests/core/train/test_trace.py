"""A step followed on meta: what is alive is counted as it comes and goes, and no value is needed."""

from collections.abc import Callable

import pytest
import torch
from mmcore.contract.values import Batch
from mmcore.train.trace import trace_step
from mmcore.weights.skeleton import skeleton
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, ROWS = 256, 1024
ROW_BYTES = 4 * WIDTH * ROWS
WEIGHT_BYTES = 4 * WIDTH * WIDTH
BATCH = Batch("none", (), {})


class Stack(nn.Module):
    """Some layers without bias, each followed by an activation whose output must be kept."""

    def __init__(self, layers: int, wrap: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))
        self.wrap = wrap or (lambda layer, x: layer(x))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.wrap(layer, x).tanh()
        return x.sum()


def traced(model: nn.Module, loss: Callable[[Tensor], Tensor] | None = None, dtype: torch.dtype | None = None):
    x = torch.randn(ROWS, WIDTH)
    run = loss or model
    return trace_step(model, BATCH, lambda _: run(x), dtype)


def bare(layers: int, wrap: Callable[..., Tensor] | None = None) -> Stack:
    with skeleton():
        return Stack(layers, wrap)


def test_gradients_are_those_of_the_trained_parameters() -> None:
    model = bare(3)
    model.layers[0].requires_grad_(False)
    assert traced(model).gradients == 2 * WEIGHT_BYTES


def test_every_layer_more_keeps_one_activation_and_one_gradient_more() -> None:
    few, many = traced(bare(4)), traced(bare(8))
    assert many.gradients - few.gradients == 4 * WEIGHT_BYTES
    # Activations are let go as gradients come; the larger of the two grows by what is kept for each layer.
    assert 4 * ROW_BYTES <= many.peak - few.peak <= 4 * (WEIGHT_BYTES + ROW_BYTES)


def test_recomputed_layers_keep_their_inputs_only() -> None:
    def wide(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x).exp().sigmoid().exp().tanh()

    def recomputed(layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(wide, layer, x, use_reentrant=False)

    assert traced(bare(8, recomputed)).peak < traced(bare(8, wide)).peak - 8 * ROW_BYTES


def test_low_precision_halves_what_matrices_give_out() -> None:
    model = bare(8).requires_grad_(False)
    model.layers[0].requires_grad_(True)
    assert traced(model, dtype=torch.bfloat16).peak < traced(model).peak


def test_what_the_host_asks_for_is_zero_and_real_indices_count() -> None:
    mask = torch.arange(ROWS) % 4 == 0

    def loss(x: Tensor) -> Tensor:
        out = model.layers[0](x)
        assert out.max().item() == 0
        assert not out.detach().cpu().numpy().any()
        with torch.autocast(out.device.type, enabled=False):
            picked = out[mask]
        assert len(picked) == ROWS // 4
        return (picked * torch.ones(WIDTH)).sum()

    model = bare(1)
    assert traced(model, loss).gradients == WEIGHT_BYTES


def test_nothing_stays_switched_on_afterwards() -> None:
    usual = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    with pytest.raises(ZeroDivisionError):
        trace_step(bare(1), BATCH, lambda _: 1 / 0, None)  # type: ignore[arg-type, return-value]
    assert usual == (torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype)
    assert float(torch.ones(2).sum()) == 2.0
