"""Losses of masks at the size of their pictures: gradients of one pass are those of the formulas."""

import pytest
import torch
from mmcore.geometry.square import enlarge, frame
from mmcore.losses import full_masks
from mmcore.losses.full_masks import mask_totals


def test_gradients_of_masks_are_those_of_the_formulas():
    low = torch.randn(3, 64, 64, requires_grad=True)
    places, targets = [frame((40, 60), 256), frame((70, 33), 256)], []
    for place, count in zip(places, (1, 2), strict=True):
        targets.append((torch.rand(count, *place.original) > 0.4).to(torch.uint8) * 2)
    totals = mask_totals(low, places, targets, 256)
    found = torch.autograd.grad(2 * totals.bce + 0.5 * totals.dice, low)[0]
    bce = dice = torch.zeros(())
    for part, place, target in zip(low.split([1, 2]), places, targets, strict=True):
        logits, wanted = enlarge(part, place, 256), target.float()
        bce = (
            bce
            + torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2)).sum()
        )
        p = logits.sigmoid()
        top = 2 * (p / 1000 * wanted).sum((1, 2)) + 1e-6
        dice = dice + (1 - top / ((p / 1000).sum((1, 2)) + (wanted / 1000).sum((1, 2)) + 1e-6)).sum()
    assert [total.item() for total in totals] == pytest.approx([bce.item(), dice.item()], rel=1e-6)
    expected = torch.autograd.grad(2 * bce + 0.5 * dice, low)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_masks_by_parts_and_all_at_once_have_the_same_losses_and_gradients(monkeypatch):
    low, target = torch.randn(5, 16, 16, requires_grad=True), (torch.rand(5, 30, 50) > 0.5).to(torch.uint8)

    def found():
        totals = mask_totals(low, [frame((30, 50), 64)], [target], 64)
        return torch.stack([*totals]).detach(), torch.autograd.grad(totals.bce + totals.dice, low)[0]

    whole = found()
    monkeypatch.setattr(full_masks, "PIXELS_AT_ONCE", 2 * 30 * 50)
    for one, other in zip(found(), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_masks_has_losses_of_nothing_and_a_gradient():
    low = torch.randn(0, 16, 16, requires_grad=True)
    totals = mask_totals(low, [], [], 64)
    (totals.bce + totals.dice).backward()
    assert totals.bce.item() == totals.dice.item() == 0
    assert low.grad is not None
