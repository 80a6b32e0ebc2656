"""Errors: what a user reads, the exit code of each kind, and that nothing is lost between processes."""

import inspect
from multiprocessing.reduction import ForkingPickler

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmcore import errors
from mmcore.errors import MmcoreError, PluginError, RecipeError, Stopped, nearest, suggest

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MmcoreError)]
CODES = {"UsageError": 2, "RecipeError": 2, "PluginError": 2, "OutOfMemoryError": 3}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Stopped], ids=lambda kind: kind.__name__)
def test_wrong_usage_exits_with_2_no_memory_with_3_and_everything_else_with_1(kind):
    assert kind("what").exit_code == CODES.get(kind.__name__, 1)


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_exits_with_128_and_its_number(number, code):
    assert Stopped(number, "saved").exit_code == code


def test_the_tree_in_the_docstring_is_the_tree():
    assert errors.__doc__ is not None
    drawn = errors.__doc__
    for kind in KINDS:
        assert kind.__name__ in drawn


def test_the_message_says_what_where_known_and_do_in_columns():
    error = RecipeError("glee has no stage 4", where="--stage 4", known=["1 pretrain", "2 joint"], do="choose one")
    assert str(error).splitlines() == [
        "glee has no stage 4",
        "  where: --stage 4",
        "  known: 1 pretrain, 2 joint",
        "  do:    choose one",
    ]


def test_what_is_not_known_is_left_out_of_the_message():
    assert str(PluginError("what", known=[])) == "what"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Stopped], ids=lambda kind: kind.__name__)
def test_an_error_of_a_data_worker_arrives_whole(kind):
    error = kind("what", where="file", known=["a", "b"], do="this")
    again = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_the_nearest_name_is_suggested_and_a_far_one_is_not():
    assert suggest("refcco", ["coco", "refcoco"], "choose") == "did you mean 'refcoco'?"
    assert suggest("zebra", ["coco", "refcoco"], "choose") == "choose"
    assert nearest("anything", []) is None


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_known_name_is_its_own_nearest(names):
    assert nearest(names[0], names) == names[0]
