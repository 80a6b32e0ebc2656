"""GLaMM's draw: the published choices from the same random numbers, and an order that is a function of the position."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcore.contract.mixture import ByKind, SourcePerBatch
from mmcore.contract.recipe import AdamW, Constant, Data, Source, Stage
from mmcore.data.order import choices
from mmcore.data.order.build import build_order
from mmcore.data.order.by_kind import ByKindOrder
from mmcore.data.order.choices import Independent
from mmcore.errors import RecipeError
from mmcore.runs.config import resolve

KINDS = {"llava": "cap", "coco": "cap", "vg": "reg", "refcoco": "seg", "ade": "seg", "unused": "seg"}
SIZES = {"llava": 50, "coco": 30, "vg": 40, "refcoco": 20, "ade": 60, "unused": 5}
RATES = {"llava": 3.0, "coco": 1.0, "vg": 1.0, "refcoco": 4.0, "ade": 1.0, "unused": 0.0}
WEIGHTS = {"cap": 0.15, "reg": 0.40, "seg": 0.45}
MICRO, PER_STEP = 2, 10


def make(**changes: Any) -> ByKindOrder:
    values = {"sizes": SIZES, "rates": RATES, "kinds": KINDS, "weights": WEIGHTS, "batches_per_step": PER_STEP}
    return ByKindOrder(**{**values, "micro_batch": dict.fromkeys(SIZES, MICRO), **changes})


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], None]:
    """Let choices take these random numbers, as the published generators gave them, in place of hashes."""
    return lambda numbers: monkeypatch.setattr(choices, "fraction", lambda *_: next(numbers))


def test_the_published_sources_come_from_the_published_random_numbers(shared: Path, feed: Any) -> None:
    case = json.loads((shared / "goldens/glamm/sampling_main/case.json").read_text())
    for drawn in case["hybrid"].values():
        generator = np.random.RandomState(drawn["numpy_seed"])
        feed(iter(generator.random_sample, None))
        choice = Independent(drawn["rates"], 0)
        assert [choice.pick(k)[0] for k in range(drawn["length"])] == drawn["drawn"]
        np.testing.assert_allclose(np.diff(choice.edges, prepend=0.0), drawn["probabilities"])


def test_the_published_kinds_come_from_the_published_random_numbers(shared: Path, feed: Any) -> None:
    steps = json.loads((shared / "goldens/glamm/sampling_main/case.json").read_text())["steps"]
    choice = Independent(steps["weights"], 0)
    for seed, expected in zip(steps["epoch_seeds"], steps["choices"], strict=True):
        feed(iter(random.Random(seed).random, None))
        assert [choice.pick(k)[0] for k in range(steps["steps_per_epoch"])] == expected


@pytest.mark.parametrize("seed", [0, 7])
def test_all_micro_batches_of_a_step_are_of_one_kind(seed: int) -> None:
    order = make(seed=seed)
    for step in range(50):
        draws = [draw for m in range(step * PER_STEP, (step + 1) * PER_STEP) for draw in order.draws(m)]
        assert len(draws) == PER_STEP * MICRO
        assert len({KINDS[draw.source] for draw in draws}) == 1


def test_with_several_kinds_a_step_micro_batches_take_turns() -> None:
    order = make(kinds_per_step=5, seed=3)
    kinds = [[KINDS[order.source(step * PER_STEP + turn)] for turn in range(PER_STEP)] for step in range(40)]
    assert all(step[:5] == step[5:] for step in kinds)
    assert any(len(set(step)) > 1 for step in kinds)


def test_shares_follow_the_weights_of_kinds_and_the_rates_within_them() -> None:
    order = make(seed=1)
    draws = [draw for m in range(40_000) for draw in order.draws(m)]
    steps = Counter(KINDS[order.source(step * PER_STEP)] for step in range(4000))
    for kind, weight in WEIGHTS.items():
        assert steps[kind] / 4000 == pytest.approx(weight, abs=0.025)
        within = {name: rate for name, rate in RATES.items() if KINDS[name] == kind}
        counts = Counter(draw.source for draw in draws if KINDS[draw.source] == kind)
        for name, rate in within.items():
            assert counts[name] / counts.total() == pytest.approx(rate / sum(within.values()), abs=0.02)
    of_one = Counter(draw.position for draw in draws if draw.source == "refcoco")
    assert len(of_one) == SIZES["refcoco"]
    assert max(of_one.values()) < 1.3 * min(of_one.values())


def test_the_order_has_no_memory_and_no_seed_twice() -> None:
    order = make(seed=9)
    expected = {m: order.draws(m) for m in (10**7, 3, 0, 999)}
    assert {m: make(seed=9).draws(m) for m in expected} == expected
    seeds = [draw.seed for m in range(3000) for draw in order.draws(m)]
    assert len(set(seeds)) == len(seeds)


def stage(mixture: ByKind, **groups: str) -> Stage:
    sources = {
        name: Source(weight=1.0, format="x", annotations="a.json", group=groups.get(name, kind))
        for name, kind in KINDS.items()
    }
    return Stage(
        number=1, name="gcg", title="a stage", origin="assumed", steps=10, global_batch=8, micro_batch=2,
        data=Data(sources=sources, mixture=mixture), optim=AdamW(lr=1e-3), schedule=Constant(),
    )  # fmt: skip


def test_a_recipe_asks_for_it() -> None:
    recipe = stage(ByKind(weights=WEIGHTS))
    order = build_order(recipe, recipe.data.sources, {name: range(size) for name, size in SIZES.items()}, 5)
    same = make(rates=dict.fromkeys(SIZES, 1.0), batches_per_step=4, seed=5)
    assert [order.draws(m) for m in range(50)] == [same.draws(m) for m in range(50)]


def test_a_kind_without_an_active_source_is_never_drawn() -> None:
    order = make(rates={**RATES, "vg": 0.0})
    assert order.names == ("llava", "coco", "refcoco", "ade")
    assert {KINDS[order.source(m)] for m in range(0, 5000, PER_STEP)} == {"cap", "seg"}


def test_another_kind_of_mixture_drops_the_groups() -> None:
    resolved, _ = resolve(stage(ByKind(weights=WEIGHTS)), None, ["data.mixture.kind=source_per_batch"])
    assert resolved.data.mixture == SourcePerBatch()
    assert {source.group for source in resolved.data.sources.values()} == {None}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["data.sources.vg.group=rge"], "did you mean 'reg'?"),
        (["data.mixture.weights.vqa=1.0"], "no source is of the kind 'vqa'"),
        (["data.sources.vg.group=null"], "source 'vg' has no group"),
        (["data.mixture.kind=source_per_batch", "data.sources.vg.group=reg"], "does not look at"),
        (["data.mixture.kinds_per_step=0"], "greater than 0"),
        (["data.mixture.kind=kind", "data.mixture.weights=null"], "data.mixture"),
    ],
)
def test_groups_that_nobody_reads_or_that_are_missing_are_refused(sets: list[str], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(stage(ByKind(weights=WEIGHTS)), None, sets)
    assert words in str(caught.value)


def test_one_kind_has_one_micro_batch() -> None:
    with pytest.raises(RecipeError, match="kind 'cap' share a batch"):
        make(micro_batch={**dict.fromkeys(SIZES, 2), "coco": 3})
    make(micro_batch={**dict.fromkeys(SIZES, 2), "vg": 3})
