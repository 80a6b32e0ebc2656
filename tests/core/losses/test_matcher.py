"""Matching: the least total cost, for every set and image on its own, however objects and queries are ordered."""

from itertools import permutations

import numpy as np
import pytest
import torch
from mmcore.errors import ShapeError
from mmcore.losses import Jagged, MaskInputs, MatchCosts, Matches, assign, match_queries, matcher

COSTS = MatchCosts(label=4.0, box=5.0, giou=2.0, mask=5.0, dice=5.0)
SETS, QUERIES, CLASSES, DIM = 3, 9, 5, 4


class Problem:
    """Random predictions and objects; `counts` objects per image."""

    def __init__(self, counts=(2, 0, 3), seed=0, points=37, size=(12, 16)):
        generator = torch.Generator().manual_seed(seed)
        batch, objects = len(counts), sum(counts)
        self.counts = counts
        self.logits = torch.randn(SETS, batch, QUERIES, CLASSES, generator=generator)
        self.boxes = torch.rand(SETS, batch, QUERIES, 4, generator=generator)
        self.labels = torch.randint(0, CLASSES, (objects,), generator=generator)
        self.targets = torch.rand(objects, 4, generator=generator)
        self.masks = MaskInputs(
            torch.randn(SETS, batch, QUERIES, DIM, generator=generator),
            torch.randn(batch, DIM, *size, generator=generator),
            torch.randint(0, 2, (objects, 24, 32), generator=generator, dtype=torch.uint8),
            torch.rand(SETS, batch, points, 2, generator=generator),
        )

    def match(self, masks=True) -> Matches:
        return match_queries(
            self.logits, self.boxes, self.labels, self.targets, self.counts, COSTS, self.masks if masks else None
        )


def pairs(matches):
    """Per set: {object: query}."""
    return [
        dict(zip(o.tolist(), q.tolist(), strict=True)) for o, q in zip(matches.objects, matches.queries, strict=True)
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_every_object_gets_one_query_of_its_own_image(masks):
    problem = Problem()
    matches = problem.match(masks)
    assert matches.pairs.counts == problem.counts
    assert matches.pairs.images.tolist() == [0, 0, 2, 2, 2]
    for found in pairs(matches):
        assert sorted(found) == list(range(5))
        assert len({found[0], found[1]}) == 2
        assert len({found[2], found[3], found[4]}) == 3


def test_pairs_are_ordered_by_image_then_query():
    matches = Problem().match()
    for queries in matches.queries.split(matches.pairs.counts, dim=1):
        assert torch.equal(queries, queries.sort(dim=1).values)


def test_assignment_is_the_cheapest_of_all():
    cost = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3))
    for row, found in zip(cost, pairs(assign(cost, [3])), strict=True):
        cheapest = min(sum(row[i, q] for i, q in enumerate(choice)) for choice in permutations(range(4), 3))
        torch.testing.assert_close(sum(row[i, found[i]] for i in range(3)), cheapest)


@pytest.mark.parametrize("masks", [True, False])
def test_permuted_objects_find_the_same_queries(masks):
    problem = Problem()
    before = pairs(problem.match(masks))
    order = torch.tensor([1, 0, 4, 2, 3])
    problem.labels, problem.targets = problem.labels[order], problem.targets[order]
    problem.masks = problem.masks._replace(masks=problem.masks.masks[order])
    after = pairs(problem.match(masks))
    for one, other in zip(before, after, strict=True):
        assert [other[new] for new in range(5)] == [one[int(old)] for old in order]


def test_permuted_queries_are_found_where_they_went():
    problem = Problem()
    before = pairs(problem.match())
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    problem.logits, problem.boxes = problem.logits[:, :, order], problem.boxes[:, :, order]
    problem.masks = problem.masks._replace(embed=problem.masks.embed[:, :, order])
    after = pairs(problem.match())
    assert [{o: int(order[q]) for o, q in found.items()} for found in after] == before


def test_sets_and_images_are_matched_independently():
    problem = Problem()
    together = problem.match()
    for one in range(SETS):
        alone, here = Problem(), slice(one, one + 1)
        alone.logits, alone.boxes = problem.logits[here], problem.boxes[here]
        alone.masks = problem.masks._replace(embed=problem.masks.embed[here], points=problem.masks.points[here])
        assert torch.equal(alone.match().queries[0], together.queries[one])


@pytest.mark.parametrize("size", [(3, 4), (12, 16)])
def test_sampling_the_features_or_the_product_gives_the_same_costs(size):
    problem = Problem(size=size)  # 37 points: more than 3·4 pixels, fewer than 12·16
    objects = Jagged(problem.counts, torch.device("cpu"))
    cross_entropy, dice = matcher.mask_costs(problem.masks, objects)
    embed, features, masks, points = problem.masks
    maps = torch.einsum("sbqc,bchw->sbqhw", embed, features)
    for output_set in range(SETS):
        for row in range(len(masks)):
            image = int(objects.images[row])
            grid = (2 * points[output_set, image] - 1)[None, :, None]
            sample = torch.nn.functional.grid_sample
            truth = sample(masks[row][None, None].float(), grid, align_corners=False).flatten()
            logits = sample(maps[output_set, image][None], grid, align_corners=False)[0, :, :, 0]
            expected = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, truth.expand_as(logits), reduction="none"
            ).mean(1)
            torch.testing.assert_close(cross_entropy[output_set, row], expected, rtol=1e-5, atol=1e-5)
            p = logits.sigmoid()
            expected = 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum() + 1)
            torch.testing.assert_close(dice[output_set, row], expected, rtol=1e-5, atol=1e-5)


def test_chunks_bound_memory_and_change_nothing(monkeypatch):
    whole = Problem().match()
    monkeypatch.setattr(matcher, "_MAX_ELEMENTS", 1)
    chunked = Problem().match()
    assert torch.equal(whole.queries, chunked.queries)
    assert torch.equal(whole.objects, chunked.objects)


def test_no_objects_give_no_pairs():
    matches = Problem(counts=(0, 0)).match()
    assert matches.queries.shape == matches.objects.shape == (SETS, 0)


def test_more_objects_than_queries_use_every_query_once():
    matches = Problem(counts=(QUERIES + 4, 1)).match()
    assert matches.pairs.counts == (QUERIES, 1)
    for queries, objects in zip(matches.queries, matches.objects, strict=True):
        assert queries[:QUERIES].tolist() == list(range(QUERIES))
        assert len(set(objects.tolist())) == QUERIES + 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_predictions_are_left_for_the_loss_to_report(bad):
    problem = Problem()
    problem.logits[0, 0] = bad
    assert problem.match().queries.shape == (SETS, 5)


def test_counts_that_do_not_fit_are_refused():
    problem = Problem()
    problem.counts = (2, 0, 4)
    with pytest.raises(ShapeError, match="do not fit 5 labels"):
        problem.match()


def test_one_transfer_per_step_whatever_the_sets_and_images(monkeypatch):
    transfers = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(self.shape) or cpu(self))
    Problem().match()
    assert transfers == [(SETS, 5, QUERIES)]


def test_ragged_rows_survive_padding():
    for counts in [(2, 0, 3), (2, 2), (0,), (4,)]:
        jagged = Jagged(counts, torch.device("cpu"))
        rows = torch.randn(2, sum(counts), 3)
        blocks = jagged.pad(rows)
        assert blocks.shape == (2, len(counts), max(counts), 3)
        assert torch.equal(jagged.unpad(blocks), rows)
        starts = np.cumsum([0, *counts])[:-1]
        assert list(jagged.starts) == starts.tolist()
        assert blocks.count_nonzero() == rows.count_nonzero()
