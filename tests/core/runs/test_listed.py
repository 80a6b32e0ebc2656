"""A list file in the place of a recipe's sources, and a family's shorthands."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmcore.contract.recipe import AdamW, Constant, Data, Source, Stage
from mmcore.errors import MissingDataError, RecipeError
from mmcore.runs.config import resolve
from mmcore.runs.listed import with_listed

STAGE = Stage(
    number=1, name="one", title="", origin="assumed", steps=1, global_batch=1, micro_batch=1,
    data=Data(sources={"own": Source(weight=1.0, format="x")}), optim=AdamW(lr=1.0), schedule=Constant(),
)  # fmt: skip


def family(answer: Any) -> Any:
    """A family whose lists hold one name a line."""
    called = lambda hook, path, root, stage: None if answer is None else answer(path)  # noqa: E731
    return SimpleNamespace(plugin=SimpleNamespace(name="toy", label="toy 1"), call=called)


def lines(path: Path) -> dict[str, Source]:
    return {name: Source(weight=1.0, format="x", annotations=f"{name}.json") for name in path.read_text().split()}


def listing(name: str) -> Stage:
    return resolve(STAGE, sets=[f"data.list={name}"])[0]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_list_takes_the_place_of_the_sources(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "list.txt").write_text("a b")
    stage, origins = with_listed(
        listing(str(tmp_path / "list.txt") if absolute else "list.txt"), family(lines), tmp_path
    )
    assert list(stage.data.sources) == ["a", "b"]
    assert stage.data.list is None, "the resolved recipe needs no list"
    assert origins["data.sources.a"] == f"data.list {tmp_path / 'list.txt'}"


def test_without_a_list_nothing_changes(tmp_path: Path) -> None:
    assert with_listed(STAGE, family(lines), tmp_path) == (STAGE, {})


def test_a_list_that_is_missing_or_not_wanted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as missing:
        with_listed(listing("nowhere.txt"), family(lines), tmp_path)
    assert "there is no list of sources nowhere.txt" in str(missing.value)
    (tmp_path / "list.txt").write_text("a")
    with pytest.raises(RecipeError) as unwanted:
        with_listed(listing("list.txt"), family(None), tmp_path)
    assert "toy reads no lists of sources" in str(unwanted.value)


def test_shorthands_stand_for_entries_and_add_to_what_is_frozen() -> None:
    short = {"still": {"frozen": ("a",)}, "small": {"optim.lr": 0.5}}
    stage, origins = resolve(STAGE, sets=["still=true", "small=true", "frozen=[b]", "still=true"], shorthands=short)
    assert (stage.frozen, stage.optim.lr) == (("b", "a"), 0.5)
    assert origins["optim.lr"] == "--set small=true"
    with pytest.raises(RecipeError) as caught:
        resolve(STAGE, sets=["stil=true"], shorthands=short)
    assert "stil" in str(caught.value)
