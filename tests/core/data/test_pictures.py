"""Pictures of records, validation sets of a run, and wordings: what several families ask in one way."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmcore.contract.protocols import DataContext
from mmcore.contract.recipe import Validation
from mmcore.data.entry import chosen_validations
from mmcore.data.pictures import cut_out, read_placed
from mmcore.data.wordings import wordings_of
from mmcore.errors import DataError, MissingDataError, RecipeError
from mmcore.language.templates import read_banks
from PIL import Image


def test_what_is_wrong_with_a_picture_names_the_record(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "a.png")
    assert read_placed(tmp_path, "a.png", "set, record 1").shape == (4, 6, 3)
    with pytest.raises(MissingDataError) as caught:
        read_placed(tmp_path, "b.png", "set, record 2")
    assert str(caught.value.where).startswith("set, record 2: ")
    with pytest.raises(DataError):
        read_placed(tmp_path, "../a.png", "set, record 3")


@pytest.mark.parametrize(("size", "box"), [((8, 12), (2, 4, 6, 8)), ((4, 6), (1, 2, 3, 4))])
def test_a_box_is_cut_out_in_the_picture_as_it_is_now(size: tuple[int, int], box: tuple[int, ...]) -> None:
    rgb = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    np.testing.assert_array_equal(cut_out(rgb, size, box), rgb[4:8, 2:6])  # type: ignore[arg-type]
    assert cut_out(rgb, (8, 12), (3, 3, 3, 3)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("only", "suffixed", "found"),
    [
        (None, False, {"a_val", "b_val", "own_val"}),
        (("a_val",), False, {"a_val"}),
        (("own",), False, {"own_val"}),
        (("x",), False, {"b_val"}),
        (("a",), False, set()),
        (("a",), True, {"a_val"}),
    ],
)
def test_validation_sets_follow_the_chosen_sources(only, suffixed, found) -> None:
    plain = Validation(metrics=("m",), format="f", annotations="a")
    sets = {"a_val": plain, "b_val": plain.replace(options={"of": "x"}), "own_val": plain.replace(root="/data")}
    recipe = SimpleNamespace(validation=sets)
    context = DataContext(Path(), Path(), "tiny", 0, only=only)
    assert set(chosen_validations(recipe, context, suffixed=suffixed)) == found  # type: ignore[arg-type]


def test_wordings_of_a_recipe_replace_a_family_s_own(tmp_path: Path) -> None:
    banks = read_banks(json.dumps({"ask": ["Where is <expr>?"], "say": ["Hm."]}), {"ask": ("<expr>",), "say": ()})
    assert wordings_of(banks, tmp_path, None) == {"ask": ("Where is <expr>?",), "say": ("Hm.",)}
    (tmp_path / "w.yaml").write_text("ask: ['Find <expr>.', '<expr>, please.']\n")
    assert wordings_of(banks, tmp_path, "w.yaml")["ask"] == ("Find <expr>.", "<expr>, please.")
    (tmp_path / "w.yaml").write_text("ask: ['Find it.']\n")
    with pytest.raises(RecipeError, match="placeholders none"):
        wordings_of(banks, tmp_path, "w.yaml")
