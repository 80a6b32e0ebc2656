"""Capped attention in blocks and by flex attention: equal to the matrices written out, and no matrix is kept."""

import pytest
import torch
from mmcore.language import capped
from mmcore.language.attention import attend
from mmcore.language.flex import flex
from mmcore.language.masking import Masking
from torch import Tensor, nn

LENGTH, ROWS, HEADS, KEY_HEADS, WIDTH, CAP = 150, 2, 4, 2, 8, 5.0


def masking_like(kind: str) -> Masking:
    order = torch.arange(LENGTH)[None]
    segments = valid = None
    if kind == "packed":
        segments = torch.tensor([[0] * 40 + [1] * 100 + [-1] * 10, [0] * 150])
    if kind == "left":
        valid = torch.arange(LENGTH) >= torch.tensor([[0], [60]])
    if kind == "right":
        valid = torch.arange(LENGTH) < torch.tensor([[150], [90]])
    return Masking(order, order, segments=segments, valid=valid, longest=LENGTH)


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (HEADS, KEY_HEADS, KEY_HEADS)
    parts = [torch.randn(ROWS, heads, LENGTH, WIDTH, generator=generator, dtype=dtype) * 2 for heads in shapes]
    return [part.requires_grad_() for part in parts]


def passed(masking: Masking, window: int | None) -> tuple[Tensor, list[Tensor]]:
    """Attention's result and the gradients of queries, keys and values."""
    parts = inputs()
    out, _ = attend(nn.Module(), *parts, None, masking=masking, scaling=0.3, sliding_window=window, softcap=CAP)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    (out * weights).sum().backward()
    return out.detach(), [part.grad for part in parts if part.grad is not None]


@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("kind", ["plain", "packed", "left", "right"])
@pytest.mark.parametrize("block", [128, 48])
def test_blocks_give_the_numbers_and_gradients_of_the_whole_matrix(
    kind: str, window: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capped, "BLOCK", block)
    found, gradients = passed(masking_like(kind), window)
    plain = masking_like(kind)
    plain.kernel = "eager"
    expected, wanted = passed(plain, window)
    # Softmax is float32 in both.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("kind", ["plain", "packed", "left", "right"])
def test_flex_attention_sees_the_same(kind: str, window: int | None) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    query, key, value = (part.detach().float() for part in inputs())
    mask = masking_like(kind).flex_mask(window)
    found = flex(query, key, value, mask, cap=CAP, scaling=0.3, kernel=flex_attention)
    expected = capped.blocks(query, key, value, masking_like(kind), cap=CAP, scaling=0.3, window=window)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_no_matrix_of_scores_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    parts = inputs(torch.float32)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attend(nn.Module(), *parts, None, masking=masking_like("plain"), scaling=0.3, softcap=CAP)
    assert max(kept) <= parts[0].numel() < ROWS * HEADS * LENGTH**2


def test_half_precision_under_autocast_keeps_its_dtype_and_is_near() -> None:
    parts = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(nn.Module(), *parts, None, masking=masking_like("plain"), scaling=0.3, softcap=CAP)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert all(part.grad is not None and part.grad.dtype == torch.float32 for part in parts)
    expected, _ = attend(nn.Module(), *parts, None, masking=masking_like("plain"), scaling=0.3, softcap=CAP)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
