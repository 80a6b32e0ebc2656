"""The published sampler as lists, and the training order that draws from the same distribution without them."""

import json

import numpy as np
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore_glee.parity.sampler import group_by_aspect, record_weights, repeat_factors


def published(shared):
    return json.loads((shared / "goldens/glee/sampler/case.json").read_text())


def test_record_weights_are_the_published_ones(shared):
    case = published(shared)
    groups = np.split(np.arange(10), np.cumsum(case["sizes"])[:-1])
    for threshold, expected in case["weights_by_repeat_threshold"].items():
        factors = [
            repeat_factors([case["categories"][i] for i in group], float(threshold)) if use else None
            for group, use in zip(groups, case["use_rfs"])
        ]
        np.testing.assert_allclose(record_weights(case["sizes"], case["ratio"], factors), expected, rtol=1e-6)


def test_buckets_emit_the_published_batches(shared):
    case = published(shared)
    stream = ((s["dataset_source"], s["width"] > s["height"], s["id"]) for s in case["stream"])
    assert list(group_by_aspect(stream, case["batch_sizes"])) == case["batches"]


def test_the_order_draws_from_the_published_distribution(shared):
    case = published(shared)
    names = ["first", "second", "third"]
    order = SourcePerBatchOrder(
        dict(zip(names, case["sizes"])), dict(zip(names, case["ratio"])), dict(zip(names, case["batch_sizes"]))
    )
    counts = np.zeros(10)
    starts = dict(zip(names, np.cumsum([0, *case["sizes"][:-1]])))
    for m in range(20_000):
        for draw in order.draws(m):
            counts[starts[draw.source] + draw.position] += 1
    weights = np.array(case["weights_by_repeat_threshold"]["0.0"])
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), rtol=0.05)
