"""Focal, box and mask losses against their definitions, and where naive forms would break."""

import torch
from mmcore.losses import box_losses, dice_loss, point_bce, sigmoid_focal_loss, sparse_focal_sum
from torch.nn import functional as F


def focal_by_definition(logits, targets, alpha=0.25, gamma=2.0):
    probability = logits.sigmoid()
    p_t = torch.where(targets, probability, 1 - probability)
    return -torch.where(targets, alpha, 1 - alpha) * (1 - p_t) ** gamma * p_t.log()


def test_focal_loss_is_its_definition():
    logits, targets = torch.randn(4, 9, dtype=torch.float64) * 3, torch.rand(4, 9) > 0.5
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), focal_by_definition(logits, targets))


def test_focal_loss_and_gradient_stay_finite_at_extreme_logits():
    logits = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], requires_grad=True)
    for positive in (torch.zeros(5), torch.ones(5)):
        loss = sigmoid_focal_loss(logits, positive)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


def test_sparse_focal_sum_equals_the_dense_one_with_its_gradient():
    logits = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    images, queries, labels = torch.tensor([0, 0, 2]), torch.tensor([[1, 6, 4], [0, 2, 3]]), torch.tensor([4, 0, 2])
    sets = torch.arange(2)[:, None]
    targets = torch.zeros_like(logits, dtype=torch.bool)
    targets[sets, images, queries, labels] = True
    dense = sigmoid_focal_loss(logits, targets).flatten(1).sum(1)
    sparse = sparse_focal_sum(logits, (sets, images, queries, labels))
    torch.testing.assert_close(sparse, dense)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * loss).sum(), logits)[0] for loss in (sparse, dense)]
    torch.testing.assert_close(*gradients)


def test_without_positives_everything_is_negative():
    logits = torch.randn(1, 2, 3)
    expected = sigmoid_focal_loss(logits, torch.zeros_like(logits)).sum()
    torch.testing.assert_close(
        sparse_focal_sum(logits, (torch.zeros(1, 0, dtype=torch.int64),) * logits.ndim)[0], expected
    )


def test_equal_boxes_cost_nothing_and_empty_boxes_stay_finite():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.0, 0.0]], requires_grad=True)
    distance, giou = box_losses(boxes, boxes.detach())
    assert distance.tolist() == [0, 0]
    assert giou[0].abs() < 1e-6
    (gradient,) = torch.autograd.grad((distance + giou).sum(), boxes)
    assert torch.isfinite(gradient).all()


def test_box_losses_of_known_boxes():
    first, second = torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.tensor([[0.75, 0.5, 0.5, 1.0]])
    distance, giou = box_losses(first, second)
    torch.testing.assert_close(distance, torch.tensor([0.5]))
    torch.testing.assert_close(giou, torch.tensor([1.0]))  # no overlap, no gap


def test_point_bce_averages_points_and_dice_keeps_empty_masks_finite():
    logits, targets = torch.randn(3, 8), torch.rand(3, 8)
    expected = [F.binary_cross_entropy_with_logits(x, t) for x, t in zip(logits, targets, strict=True)]
    torch.testing.assert_close(point_bce(logits, targets), torch.stack(expected))
    nothing = dice_loss(torch.full((1, 8), -100.0), torch.zeros(1, 8))
    torch.testing.assert_close(nothing, torch.zeros(1))
    everything = dice_loss(torch.full((1, 8), 100.0), torch.ones(1, 8))
    torch.testing.assert_close(everything, torch.zeros(1))
