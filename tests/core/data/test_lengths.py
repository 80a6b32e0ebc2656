"""Length grouping: the published order given its permutations, and an order that is a function of the position."""

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.base.hashing import mix
from mmcore.contract.mixture import ByLength
from mmcore.contract.protocols import DataSource
from mmcore.contract.recipe import AdamW, Constant, Data, Source, Stage
from mmcore.contract.values import Draw
from mmcore.data.order import by_task as by_task_module
from mmcore.data.order import grouped
from mmcore.data.order.build import build_order
from mmcore.data.order.by_length import ByLengthOrder
from mmcore.data.order.by_task import ByTaskOrder
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


class Chat(DataSource):
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
        build_order(recipe, recipe.data.sources, {"a": Chat(), "b": Chat(), "other": DataSource()}, 0)
    assert message in str(caught.value)
    assert "stage 1 tune" in str(caught.value)
    assert "do:" in str(caught.value)


# ---- by task and length ----


def by_task(lengths: dict[str, np.ndarray], **changes: Any) -> ByTaskOrder:
    tasks = {"chat": "general", "vqa": "general", "boxes": "localisation"}
    return ByTaskOrder(lengths, **{"tasks": tasks, "micro_batch": 2, "global_batch": 8, "seed": 3, **changes})


TASKS = {
    "chat": np.concatenate([np.arange(1, 30), -np.arange(1, 22)]),
    "vqa": np.arange(1, 14),
    "boxes": np.arange(1, 40) * 30,
}
GROUPS = {"general": 29 + 13, "localisation": 39, "text": 21}
"""Records of each task: text comes from chat alone."""


def task_of(draw: Draw) -> str:
    if TASKS[draw.source][draw.position] < 0:
        return "text"
    return "localisation" if draw.source == "boxes" else "general"


def test_a_step_sees_one_task_and_the_last_of_each_is_left_out() -> None:
    order = by_task(TASKS)
    kept = {task: (count - 1) // 8 for task, count in GROUPS.items()}
    steps = [[draw for m in range(s * 4, s * 4 + 4) for draw in order.draws(m)] for s in range(sum(kept.values()))]
    assert Counter(next(iter({task_of(draw) for draw in step})) for step in steps) == kept
    assert all(len({task_of(draw) for draw in step}) == 1 for step in steps)
    drawn = [(draw.source, draw.position) for step in steps for draw in step]
    assert len(set(drawn)) == len(drawn) == 8 * sum(kept.values())
    following = [task_of(order.draws(4 * s)[0]) for s in range(len(steps), 2 * len(steps))]
    assert Counter(following) == kept


def test_the_task_order_is_the_published_rule_over_the_same_permutations(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the golden cases those in which the tasks come in the order in which the published code joins them."""
    compared = 0
    for entry in json.loads((shared / "goldens/griffon/samplers/case.json").read_text())["cases"]:
        if entry["mode"] != "task" or entry["indices"] is None:
            continue
        tasks, lengths = np.array(entry["lengths"]).T
        used = np.flatnonzero(tasks != 3) if len(set(tasks)) > 1 else np.arange(len(tasks))
        monkeypatch.setattr(grouped, "Permutations", lambda key: lambda size: torch.randperm(size).numpy())
        monkeypatch.setattr(by_task_module, "group_kinds", partial(group_kinds, joined=(0, 2, 1)))
        torch.manual_seed(entry["torch_seed"])
        places, columns = {}, {}
        for task in (1, 2, 0):
            places[str(task)] = used[tasks[used] == task]
            columns[str(task)] = lengths[places[str(task)]] * (-1 if task == 0 else 1)
        columns = {name: column for name, column in columns.items() if len(column)}
        world = entry["world_size_times_accumulation"]
        order = ByTaskOrder(columns, {name: name for name in columns}, entry["batch_size"], entry["batch_size"] * world)
        count = len(entry["indices"]) // entry["batch_size"]
        drawn = [int(places[draw.source][draw.position]) for m in range(count) for draw in order.draws(m)]
        if len(columns) > 1 or entry["batch_size"] * world == len(lengths):
            assert drawn == entry["indices"][: len(drawn)]
            compared += 1
    assert compared >= 6


def test_a_single_task_keeps_every_record() -> None:
    order = by_task({"boxes": TASKS["boxes"][:17]})
    drawn = [draw.position for m in range(12) for draw in order.draws(m)]
    assert sorted(set(drawn)) == list(range(17))


def test_too_few_records_for_any_global_batch_are_told() -> None:
    with pytest.raises(DataError, match="no task has more than the 8 records"):
        by_task({"chat": np.array([1, 2, -3]), "boxes": np.array([3, 4])})
