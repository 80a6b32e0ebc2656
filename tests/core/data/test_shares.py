"""A share of several sources together: as many as published, the same ones in every run."""

import numpy as np
import pytest
from mmcore.data.shares import SEED, kept, split


@pytest.mark.parametrize(("total", "share"), [(10, 0.5), (7, 0.3), (100, 0.999), (3, 0.1)])
def test_a_share_is_cut_from_the_published_shuffle(total: int, share: float) -> None:
    shuffled = list(range(total))
    np.random.default_rng(SEED).shuffle(shuffled)
    assert kept(total, share).tolist() == shuffled[: int(total * share)]
    assert kept(total, 1).tolist() == list(range(total)), "a whole list keeps its order"


def test_each_source_keeps_its_part_in_the_order_of_its_file() -> None:
    sizes = {"a": 5, "b": 0, "c": 15}
    parts = split(sizes, 0.5)
    assert sum(map(len, parts.values())) == 10
    together = [*parts["a"], *(place + 5 for place in parts["c"])]
    assert together == sorted(kept(20, 0.5).tolist())
    assert all((np.diff(places) > 0).all() for places in parts.values())
