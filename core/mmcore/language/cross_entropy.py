"""The text loss without the logits: only supervised positions, a chunk at a time, in float32.

Logits of 4096 positions over 128 257 words are 2.1 GB in float32, their gradient as much again, and most positions are
prompt, image or padding. Here the positions that have a target are picked first; then each chunk of them goes through
the output layer, becomes its loss and, while its logits are there, the gradient of its inputs. So no logits are kept
for the backward pass and none are computed twice. (The gradient of the sum is kept instead: one row per target, and
one output matrix if it is trained.)
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

LOGITS_AT_ONCE = 1 << 25
"""Logits alive at a time when the caller names no chunk: 128 MiB of float32."""
_HALF_SCALE = 4096.0
"""float16 holds gradients of probabilities down to 1e-8 when they are multiplied by this."""


def token_loss(
    hidden: Float[Tensor, "rows length width"],
    weight: Float[Tensor, "words width"],
    supervised: Int[Tensor, " targets"],
    targets: Int[Tensor, " targets"],
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Float[Tensor, ""]:
    """Sum over all targets of -log p(target), float32.

    Args:
        hidden: output of the language model after its last norm.
        weight: output layer without bias; costs no gradient when it is frozen.
        supervised: flat positions (row * length + column) whose output predicts a target.
        targets: the word each of them has to predict, in [0, words).
        chunk: positions whose logits are alive at a time; None chooses by the size of the vocabulary.
        softcap: logits are squeezed into ±softcap by tanh (Gemma 2); None leaves them.
    """
    rows = hidden.flatten(0, 1).index_select(0, supervised)
    size = chunk or max(16, LOGITS_AT_ONCE // weight.shape[0])
    wanted = torch.is_grad_enabled() and (rows.requires_grad, weight.requires_grad)
    return _TokenLoss.apply(rows, weight, targets, size, softcap, wanted or (False, False))  # type: ignore[no-any-return]


class _TokenLoss(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks; the backward pass only multiplies."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
        wanted: tuple[bool, bool],
    ) -> Tensor:
        kind = rows.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        with torch.autocast(kind, enabled=False):
            total, d_rows, d_weight = _in_chunks(rows, weight.to(low), targets, chunk, softcap, wanted)
        ctx.save_for_backward(
            None if d_rows is None else d_rows.to(rows.dtype), None if d_weight is None else d_weight.to(weight.dtype)
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        d_rows, d_weight = ctx.saved_tensors
        return (
            None if d_rows is None else d_rows * gradient.to(d_rows.dtype),
            None if d_weight is None else d_weight * gradient.to(d_weight.dtype),
            *(None,) * 4,
        )


def _in_chunks(
    rows: Tensor, weight: Tensor, targets: Tensor, chunk: int, softcap: float | None, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss, and the gradients that are wanted, summed in float32 or wider."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    total = rows.new_zeros((), dtype=wide)
    d_rows = torch.empty(rows.shape, dtype=wide, device=rows.device) if wanted[0] else None
    d_weight = torch.zeros(weight.shape, dtype=wide, device=rows.device) if wanted[1] else None
    scale = _HALF_SCALE if weight.dtype == torch.float16 else 1.0
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        inputs = rows[part].to(weight.dtype)
        loss, d_logits = _loss_and_gradient(linear(inputs, weight).to(wide), targets[part], softcap, any(wanted))
        total += loss
        if d_logits is None:
            continue
        d_logits = d_logits.mul_(scale).to(weight.dtype)
        if d_rows is not None:
            d_rows[part] = (d_logits @ weight).to(wide) / scale
        if d_weight is not None and weight.dtype == wide:
            d_weight.addmm_(d_logits.T, inputs)
        elif d_weight is not None:
            d_weight.add_(d_logits.T @ inputs, alpha=1 / scale)
    return total, d_rows, d_weight


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, softcap: float | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Loss of one chunk and the gradient of its logits; writes into `logits`."""
    squeezed = logits.div_(softcap).tanh_() if softcap else None
    if squeezed is not None and softcap:
        logits = squeezed * softcap
    index = targets[:, None]
    logits -= logits.amax(1, keepdim=True)
    chosen = logits.gather(1, index)
    sums = logits.exp_().sum(1, keepdim=True)
    loss = (sums.log() - chosen).sum()
    if not wanted:
        return loss, None
    gradient = logits.div_(sums).scatter_add_(1, index, chosen.new_full(chosen.shape, -1.0))
    return loss, gradient if squeezed is None else gradient.mul_(1 - squeezed.square_())
