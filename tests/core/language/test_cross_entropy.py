"""The text loss in chunks: the same numbers as with all logits, without ever holding them."""

import pytest
import torch
from mmcore.language.cross_entropy import token_loss
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROWS, LENGTH, WIDTH, WORDS = 3, 9, 8, 50


def problem(targets: int = 11, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output layer, positions and their targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=generator).to(dtype).requires_grad_()
    supervised = torch.randperm(ROWS * LENGTH, generator=generator)[:targets]
    return hidden, weight, supervised, torch.randint(0, WORDS, (targets,), generator=generator)


def whole(hidden: Tensor, weight: Tensor, supervised: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """The loss from all logits."""
    logits = (hidden @ weight.T).flatten(0, 1)
    logits = logits if softcap is None else (logits / softcap).tanh() * softcap
    return cross_entropy(logits[supervised].float(), targets, reduction="sum")


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk", [1, 4, 11, None])
def test_loss_and_gradients_are_those_of_all_logits(chunk: int | None, softcap: float | None) -> None:
    hidden, weight, supervised, targets = problem()
    ours = token_loss(hidden, weight, supervised, targets, chunk=chunk, softcap=softcap)
    plain = whole(hidden, weight, supervised, targets, softcap)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(
        torch.autograd.grad(ours * 0.3, (hidden, weight)),
        torch.autograd.grad(plain * 0.3, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients_agree_with_finite_differences(softcap: float | None) -> None:
    hidden, weight, supervised, targets = problem(5, torch.float64)

    def loss(h: Tensor, w: Tensor) -> Tensor:
        return token_loss(h, w, supervised, targets, chunk=2, softcap=softcap)

    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_a_frozen_output_layer_gets_no_gradient_and_costs_none() -> None:
    hidden, weight, supervised, targets = problem()
    weight.requires_grad_(False)
    with _Largest() as largest:
        token_loss(hidden, weight, supervised, targets, chunk=2).backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert largest.numel < WORDS * WIDTH


def test_never_more_than_a_chunk_of_logits_lives() -> None:
    hidden, weight, supervised, targets = problem(27)
    with _Largest() as largest:
        token_loss(hidden, weight.detach(), supervised, targets, chunk=3).backward()
    assert largest.numel <= max(3 * WORDS, hidden.numel())
    with _Largest() as largest:
        whole(hidden, weight.detach(), supervised, targets)
    assert largest.numel == hidden.shape[:2].numel() * WORDS


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, supervised, targets = problem()
    with torch.no_grad():
        loss = token_loss(hidden, weight, supervised, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, whole(hidden, weight, supervised, targets).detach())


def test_a_batch_without_targets_costs_nothing_and_trains_nothing() -> None:
    hidden, weight, supervised, targets = problem(0)
    loss = token_loss(hidden, weight, supervised, targets)
    loss.backward()
    assert loss == 0
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() == 0
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


def test_autocast_computes_logits_in_half_and_the_loss_in_float32() -> None:
    hidden, weight, supervised, targets = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = token_loss(hidden, weight, supervised, targets, chunk=4)
    loss.backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    logits = (hidden.bfloat16() @ weight.bfloat16().T).flatten(0, 1)
    expected = cross_entropy(logits[supervised].float(), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    exact = torch.autograd.grad(whole(hidden, weight, supervised, targets), weight)[0]
    assert (weight.grad - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_small_gradients(dtype: torch.dtype) -> None:
    hidden, weight, supervised, targets = problem(dtype=dtype)
    loss = token_loss(hidden, weight, supervised, targets, chunk=3)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    wide = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    exact = torch.autograd.grad(whole(*wide, supervised, targets), wide)
    for ours, reference in zip(gradients, exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - reference).norm() < 0.02 * reference.norm()


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func not in (torch.ops.aten.detach.default, torch.ops.aten.t.default, torch.ops.aten.transpose.int):
            self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result
