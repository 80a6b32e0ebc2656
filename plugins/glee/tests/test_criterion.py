"""The criterion against plain loops over whole masks, and what must hold whatever the batch."""

import dataclasses

import pytest
import torch
from mmcore.errors import ShapeError
from mmcore_glee import criterion as criterion_module
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LOSS_WEIGHTS
from mmcore_glee.criterion import Criterion
from mmcore_glee.outputs import DecoderOutputs, Draws, QueryOutputs
from torch.nn import functional as F

NAMES = ("final", "0", "1", "interm")
QUERIES, CLASSES, DIM, POINTS = 7, 3, 5, 16
CRITERION = Criterion(num_points=POINTS)


class Replay(Draws):
    """Draws every number once from a seed, by set name, so that order and chunks do not matter."""

    def match_points(self, sets, num_images, num_points, device):
        return torch.stack([uniform(f"match {name}", num_images, num_points, 2) for name in sets]).to(device)

    def loss_points(self, sets, num_pairs, num_oversampled, num_random, device):
        return (
            torch.stack([uniform(f"candidates {name}", num_pairs, num_oversampled, 2) for name in sets]).to(device),
            torch.stack([uniform(f"uniform {name}", num_pairs, num_random, 2) for name in sets]).to(device),
        )


def uniform(key, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(key.encode())))


def make_batch(counts=(2, 0, 3), *, masks=True, task="coco", prompt=False, classes=CLASSES):
    generator = torch.Generator().manual_seed(5)
    batch, objects, size = len(counts), sum(counts), (24, 32)
    return GleeBatch(
        source="test",
        draws=(),
        normalisers={"objects": float(objects), "batches": 1.0},
        images=torch.zeros(batch, 3, *size, dtype=torch.uint8),
        image_sizes=(size,) * batch,
        original_sizes=(size,) * batch,
        image_ids=tuple(range(batch)),
        num_objects=tuple(counts),
        labels=torch.randint(0, classes, (objects,), generator=generator),
        boxes_cxcywh=torch.rand(objects, 4, generator=generator) * 0.5 + 0.2,
        masks=torch.randint(0, 2, (objects, *size), generator=generator, dtype=torch.uint8) if masks else None,
        task=task,
        names=("x",) * classes,
        input_ids=torch.zeros(classes, 3, dtype=torch.int64),
        attention_mask=torch.ones(classes, 3, dtype=torch.int64),
        prompt_masks=torch.ones(batch, *size, dtype=torch.uint8) if prompt else None,
    )


def make_outputs(batch, *, classes=CLASSES, groups=2):
    generator = torch.Generator().manual_seed(6)
    images, width = len(batch.num_objects), max(batch.num_objects)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    def boxes(queries):
        return (torch.rand(images, queries, 4, generator=generator) * 1.2 - 0.1).requires_grad_()

    sets = {
        name: QueryOutputs(
            leaf(images, QUERIES, classes), boxes(QUERIES), leaf(images, QUERIES, DIM), leaf(images, QUERIES, 1)
        )
        for name in NAMES
    }
    pad = width * groups
    noised = {name: QueryOutputs(leaf(images, pad, classes), boxes(pad)) for name in NAMES[:-1]} if pad else {}
    return DecoderOutputs(sets, leaf(images, DIM, 6, 8), noised, groups if pad else 0, pad)


def leaves(outputs):
    sets = [*outputs.sets.values(), *outputs.denoising.values()]
    values = [getattr(one, f.name) for one in sets for f in dataclasses.fields(one)]
    return [outputs.mask_features, *(value for value in values if value is not None)]


def gradients(losses, outputs):
    total = sum(loss.total for loss in losses.values())
    return torch.autograd.grad(total, leaves(outputs), allow_unused=True, materialize_grads=True)


def plain_losses(outputs, batch, matches):
    """The same losses as loops over sets and images, with whole masks of every query kept for backward."""
    starts = [sum(batch.num_objects[:b]) for b in range(len(batch.num_objects))]
    result = {}

    def class_and_box(one, pairs, suffix, groups=1):
        targets = torch.zeros_like(one.logits)
        for image, query, row in pairs:
            targets[image, query, batch.labels[row]] = 1
        p = one.logits.sigmoid()
        p_t = torch.where(targets == 1, p, 1 - p)
        focal = torch.where(targets == 1, 0.25, 0.75) * (1 - p_t) ** 2 * -p_t.log()
        result[f"loss_ce{suffix}"] = 4 * focal.sum() / groups
        boxes = torch.stack([one.boxes_cxcywh[image, query].clamp(0, 1) for image, query, _ in pairs])
        truth = torch.stack([batch.boxes_cxcywh[row] for *_, row in pairs])
        result[f"loss_bbox{suffix}"] = 5 * (boxes - truth).abs().sum() / groups
        result[f"loss_giou{suffix}"] = 2 * sum(1 - giou(a, b) for a, b in zip(boxes, truth, strict=True)) / groups

    def giou(a, b):
        (al, at, ar, ab), (bl, bt, br, bb) = (
            (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for cx, cy, w, h in (a.unbind(), b.unbind())
        )
        inter = (torch.minimum(ar, br) - torch.maximum(al, bl)).clamp(0) * (
            torch.minimum(ab, bb) - torch.maximum(at, bt)
        ).clamp(0)
        union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - inter
        hull = (torch.maximum(ar, br) - torch.minimum(al, bl)) * (torch.maximum(ab, bb) - torch.minimum(at, bt))
        return inter / union - (hull - union) / hull

    def sample(map_, points):
        return F.grid_sample(map_[None, None], (2 * points - 1)[None, :, None], align_corners=False).flatten()

    for index, (name, one) in enumerate(outputs.sets.items()):
        suffix = "" if name == "final" else f"_{name}"
        rows = zip(matches.pairs.images, matches.queries[index], matches.objects[index], strict=True)
        pairs = [tuple(int(x) for x in row) for row in rows]
        class_and_box(one, pairs, suffix)
        whole = torch.einsum("bqc,bchw->bqhw", one.mask_embed, outputs.mask_features)
        candidates = uniform(f"candidates {name}", len(pairs), 3 * POINTS, 2)
        rest = uniform(f"uniform {name}", len(pairs), POINTS - 12, 2)
        bce = dice = 0
        for i, (image, query, row) in enumerate(pairs):
            chosen = sample(whole[image, query], candidates[i]).abs().argsort()[:12]
            points = torch.cat((candidates[i][chosen], rest[i]))
            x, t = sample(whole[image, query], points), sample(batch.masks[row].float(), points)
            bce = bce + F.binary_cross_entropy_with_logits(x, t)
            dice = dice + 1 - (2 * (x.sigmoid() * t).sum() + 1) / (x.sigmoid().sum() + t.sum() + 1)
        result[f"loss_mask{suffix}"], result[f"loss_dice{suffix}"] = 5 * bce, 5 * dice
    for name, one in outputs.denoising.items():
        pad = outputs.denoising_pad // outputs.denoising_groups
        pairs = [
            (image, g * pad + j, starts[image] + j)
            for image, count in enumerate(batch.num_objects)
            for g in range(outputs.denoising_groups)
            for j in range(count)
        ]
        class_and_box(one, pairs, "_dn" + ("" if name == "final" else f"_{name}"), outputs.denoising_groups)
    return result


@pytest.mark.parametrize("counts", [(2, 0, 3), (2, 2)])
def test_losses_and_gradients_equal_plain_loops_over_whole_masks(counts):
    batch = make_batch(counts)
    outputs = make_outputs(batch)
    matches = CRITERION.match(outputs, batch, Replay())
    losses = CRITERION.losses(outputs, batch, Replay(), matches)
    plain = plain_losses(outputs, batch, matches)
    for name, expected in plain.items():
        torch.testing.assert_close(losses[name].total, expected, rtol=1e-5, atol=1e-5)
    assert {name for name in losses if name not in plain} == {f"loss_conf{s}" for s in ("", "_0", "_1", "_interm")}
    ours = gradients(losses, outputs)
    theirs = torch.autograd.grad(sum(plain.values()), leaves(outputs), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_permuted_queries_give_the_same_losses():
    # Pairs, and with them the points, are ordered by query: with one object in each image the order cannot change.
    batch = make_batch((1, 1, 1), prompt=True)
    outputs = make_outputs(batch)
    before = CRITERION(outputs, batch, Replay())
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(2))
    for one in outputs.sets.values():
        for entry in dataclasses.fields(one):
            setattr(one, entry.name, getattr(one, entry.name)[:, order])
    after = CRITERION(outputs, batch, Replay())
    for name in before:
        torch.testing.assert_close(after[name].total, before[name].total, rtol=1e-5, atol=1e-5)


def test_permuted_objects_give_the_same_losses():
    batch = make_batch((4, 3))
    outputs = make_outputs(batch, groups=1)
    outputs.denoising, outputs.denoising_groups = {}, 0  # denoising queries are made from the objects in order
    before = CRITERION(outputs, batch, Replay())
    order = torch.tensor([3, 1, 0, 2, 5, 6, 4])
    batch.labels, batch.boxes_cxcywh, batch.masks = (x[order] for x in (batch.labels, batch.boxes_cxcywh, batch.masks))
    after = CRITERION(outputs, batch, Replay())
    for name in before:
        torch.testing.assert_close(after[name].total, before[name].total, rtol=1e-5, atol=1e-5)


def test_chunks_bound_memory_and_change_nothing(monkeypatch):
    batch = make_batch()
    outputs = make_outputs(batch)
    whole = CRITERION(outputs, batch, Replay())
    monkeypatch.setattr(criterion_module, "_MAX_ELEMENTS", 1)
    chunked = CRITERION(outputs, batch, Replay())
    for name in whole:
        torch.testing.assert_close(chunked[name].total, whole[name].total)


def test_a_batch_without_objects_still_learns_that_there_is_nothing():
    batch = make_batch((0, 0))
    outputs = make_outputs(batch)
    losses = CRITERION(outputs, batch, Replay())
    assert losses["loss_ce"].total > 0
    for name, loss in losses.items():
        if not name.startswith("loss_ce") or "_dn" in name:
            assert loss.total.item() == 0, name
    for gradient in gradients(losses, outputs):
        assert torch.isfinite(gradient).all()


def test_the_set_of_names_never_depends_on_the_batch():
    kinds = [make_batch(), make_batch((0, 0)), make_batch(masks=False, task="obj365"), make_batch(prompt=True)]
    names = [list(CRITERION(make_outputs(batch), batch, Replay())) for batch in kinds]
    assert all(set(names[0]) == set(other) for other in names)
    assert len(names[0]) == 6 * 4 + 3 * 3


def test_sources_without_masks_have_no_mask_loss_and_draw_no_points():
    class NoDraws(Draws):
        def match_points(self, *_):
            raise AssertionError("drew points")

        loss_points = match_points

    batch = make_batch(masks=False, task="obj365")
    losses = CRITERION(make_outputs(batch), batch, NoDraws())
    assert losses["loss_mask"].total.item() == losses["loss_dice_interm"].total.item() == 0
    assert losses["loss_bbox"].total.item() > 0


def test_grit_boxes_count_nothing():
    batch = make_batch(masks=False, task="grit")
    losses = CRITERION(make_outputs(batch), batch, Replay())
    assert {loss.total.item() for name, loss in losses.items() if "box" in name or "giou" in name} == {0.0}
    assert losses["loss_ce_dn"].total.item() > 0


def test_confidence_counts_only_with_a_prompt_and_not_for_proposals():
    with_prompt, without = make_batch(prompt=True), make_batch()
    outputs = make_outputs(without)
    assert CRITERION(outputs, without, Replay())["loss_conf"].total.item() == 0
    losses = CRITERION(outputs, with_prompt, Replay())
    assert losses["loss_conf"].total.item() > 0
    assert losses["loss_conf_interm"].total.item() == 0
    assert {loss.per for name, loss in losses.items() if "conf" in name} == {"batches"}
    assert {loss.per for name, loss in losses.items() if "conf" not in name} == {"objects"}


def test_a_vocabulary_of_one_works():
    batch = make_batch(classes=1, task="grounding")
    losses = CRITERION(make_outputs(batch, classes=1), batch, Replay())
    assert all(torch.isfinite(loss.total) for loss in losses.values())


def test_weights_multiply_each_kind():
    batch = make_batch(prompt=True)
    outputs = make_outputs(batch)
    published = CRITERION(outputs, batch, Replay())
    plain = Criterion(num_points=POINTS, weights=dict.fromkeys(LOSS_WEIGHTS, 1.0))(outputs, batch, Replay())
    for name, loss in published.items():
        kind = "_".join(name.split("_")[:2])
        torch.testing.assert_close(loss.total, LOSS_WEIGHTS[kind] * plain[name].total)


def test_stored_points_replay_to_the_same_number_and_others_do_not():
    batch = make_batch()
    outputs = make_outputs(batch)
    first, second = (CRITERION(outputs, batch, Replay())["loss_mask"].total for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    assert not torch.equal(CRITERION(outputs, batch, Draws())["loss_mask"].total, first)


def test_sets_that_do_not_fit_together_are_refused():
    batch = make_batch()
    outputs = make_outputs(batch)
    outputs.sets["0"].logits = outputs.sets["0"].logits[:, :3]
    with pytest.raises(ShapeError, match="output sets differ in logits"):
        CRITERION(outputs, batch, Replay())
