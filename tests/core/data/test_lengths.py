"""Length grouping: the published order given its permutations, and an order that is a function of the position."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.base.hashing import mix
from mmcore.contract.mixture import ByLength
from mmcore.contract.recipe import AdamW, Constant, Data, Source, Stage
from mmcore.data.order.build import build_order
from mmcore.data.order.by_length import ByLengthOrder
from mmcore.data.order.megabatches import group, group_kinds, mix_all
from mmcore.errors import DataError, RecipeError
from safetensors.numpy import load_file

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(1, 300, 203) * RANDOM.choice([-1, 1, 1], 203)


def test_visper_order_is_the_published_one(shared: Path) -> None:
    stored = load_file(shared / "goldens/visper/data_sampler/tensors.safetensors")
    draws = iter([stored["mixed.draw0"], stored["mixed.draw1"], stored["mixed.draw2"]])
    np.testing.assert_array_equal(group(stored["lengths"], 4, 3, lambda size: next(draws)), stored["mixed"])
    one_kind = group(np.abs(stored["lengths"]), 4, 3, lambda size: stored["single.draw0"])
    np.testing.assert_array_equal(one_kind, stored["single_modality"])


def test_griffon_orders_are_the_published_ones(shared: Path) -> None:
    case = json.loads((shared / "goldens/griffon/samplers/case.json").read_text())
    compared = Counter()
    for entry in case["cases"]:
        if entry["indices"] is not None:
            torch.manual_seed(entry["torch_seed"])
            assert griffon(entry).tolist() == entry["indices"]
            compared[entry["mode"]] += 1
    assert set(compared) == {"plain", "modality", "task"}


def griffon(entry: dict[str, Any]) -> np.ndarray:
    batch, world = entry["batch_size"], entry["world_size_times_accumulation"]

    def permutation(size: int) -> np.ndarray:
        return torch.randperm(size).numpy()

    if entry["mode"] != "task":
        lengths = np.array(entry["lengths"])
        kinds = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
        if entry["mode"] == "plain" or not all(map(len, kinds)):
            return group(lengths, batch, world, permutation)
        return group_kinds(kinds, lengths, batch, world, permutation, keep_rest=False)
    tasks, lengths = np.array(entry["lengths"]).T
    if len(set(tasks)) == 1:
        return group(lengths, batch, world, permutation)
    kinds = [np.flatnonzero(tasks == task) for task in (1, 2, 0)]
    return group_kinds(kinds, lengths, batch, world, permutation, joined=(0, 2, 1), keep_rest=False)


@pytest.mark.parametrize(("modality", "expected"), [(True, "45698178d69972ad"), (False, "c3dc8fee8b390dbb")])
def test_what_a_seed_draws_never_changes(modality: bool, expected: str) -> None:
    lengths = {"a": np.arange(1, 102) * 37 % 91 + 1, "b": -(np.arange(1, 53) * 29 % 71 + 1)}
    order = ByLengthOrder(lengths, 4, 12, modality=modality, seed=11)
    drawn = hashlib.sha256()
    for m in [*range(500), 10**7]:
        drawn.update(repr([(draw.source, draw.position, draw.seed) for draw in order.draws(m)]).encode())
    assert drawn.hexdigest()[:16] == expected


def test_every_record_comes_once_per_epoch_and_the_last_batch_is_filled() -> None:
    order = ByLengthOrder({"chat": LENGTHS}, 4, 12, seed=1)
    turns = -(-len(LENGTHS) // 12) * 3
    seen = Counter(draw.position for m in range(turns) for draw in order.draws(m))
    assert set(seen) == set(range(len(LENGTHS)))
    assert sum(seen.values()) == turns * 4
    assert max(seen.values()) <= 2
    again = [draw.position for m in range(turns, 2 * turns) for draw in order.draws(m)]
    assert set(again) == set(seen)
    assert again != [draw.position for m in range(turns) for draw in order.draws(m)]


def test_micro_batches_of_a_step_share_their_kind_and_are_about_as_long() -> None:
    order = ByLengthOrder({"chat": LENGTHS}, 4, 12, seed=1)
    spread = []
    for step in range(10):
        lengths = [[LENGTHS[draw.position] for draw in order.draws(3 * step + part)] for part in range(3)]
        assert len({length > 0 for part in lengths for length in part}) == 1
        sums = [abs(sum(part)) for part in lengths]
        spread.append(max(sums) / min(sums))
    assert np.mean(spread) < 1.3


def test_any_position_can_be_asked_first() -> None:
    asked = ByLengthOrder({"chat": LENGTHS}, 4, 12, seed=5)
    in_order = [asked.draws(m) for m in range(150)]
    for m in (149, 3, 60, 149):
        assert ByLengthOrder({"chat": LENGTHS}, 4, 12, seed=5).draws(m) == in_order[m]
    assert ByLengthOrder({"chat": LENGTHS}, 4, 12, seed=6).draws(3) != in_order[3]
    assert len({draw.seed for draws in in_order for draw in draws}) == 600


def test_sources_lie_end_to_end() -> None:
    order = ByLengthOrder({"a": LENGTHS[:50], "b": LENGTHS[50:]}, 4, 12, seed=1)
    found = {(draw.source, draw.position) for m in range(51) for draw in order.draws(m)}
    assert found == {("a", i) for i in range(50)} | {("b", i) for i in range(153)}


def test_fewer_records_than_a_global_batch_are_repeated_to_fill_it() -> None:
    order = ByLengthOrder({"chat": np.array([5, 3, -2])}, 4, 8)
    assert Counter(draw.position for m in range(2) for draw in order.draws(m)).total() == 8


def test_the_vector_hash_is_the_scalar_one() -> None:
    assert mix_all(9, np.arange(20, dtype=np.uint64)).tolist() == [mix(9, value) for value in range(20)]


def test_a_record_without_words_is_named() -> None:
    with pytest.raises(DataError, match="no words") as caught:
        group(np.array([3, 0, -1]), 1, 1, np.arange)
    assert "record 1" in str(caught.value)


def test_a_global_batch_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a multiple"):
        ByLengthOrder({"chat": LENGTHS}, 4, 10)


def stage(sources: dict[str, float]) -> Stage:
    entries = {name: Source(weight=weight, format="LLaVA JSON") for name, weight in sources.items()}
    return Stage(
        number=1,
        name="tune",
        title="a stage",
        origin="assumed",
        steps=10,
        global_batch=4,
        micro_batch=2,
        data=Data(sources=entries, mixture=ByLength(by_modality=True)),
        optim=AdamW(lr=1e-3),
        schedule=Constant(),
    )


class Chat:
    def lengths(self) -> np.ndarray:
        return LENGTHS


def test_a_recipe_asks_for_grouping() -> None:
    recipe = stage({"chat": 1.0})
    order = build_order(recipe, recipe.data.sources, {"chat": Chat()}, 3)
    assert order.names == ("chat",)
    assert order.draws(7) == ByLengthOrder({"chat": LENGTHS}, 2, 4, seed=3).draws(7)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": 1.0, "b": 2.0}, "weights cannot differ"),
        ({"other": 1.0}, "source 'other' does not know how long its records are"),
    ],
)
def test_what_grouping_cannot_do_is_refused_with_what_to_do(sources: dict[str, float], message: str) -> None:
    recipe = stage(sources)
    with pytest.raises(RecipeError) as caught:
        build_order(recipe, recipe.data.sources, {"a": Chat(), "b": Chat(), "other": object()}, 0)
    assert message in str(caught.value)
    assert "stage 1 tune" in str(caught.value)
    assert "do:" in str(caught.value)
