"""Vision-R1's rewards: more and better boxes are worth more, and nothing that a model writes breaks them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmcore.evaluate.box_rewards import Truth, format_reward, precision_reward, read_boxes, recall_reward

TRUTH = Truth(
    boxes=[("cat", (10, 10, 60, 60)), ("dog", (100, 20, 180, 90))],
    classes={"cat": 1, "dog": 2},
    size=(200, 100),
    seen=(200, 100),
    count=2,
)
BOTH = '[{"bbox_2d": [10, 10, 60, 60], "label": "cat"}, {"bbox_2d": [100, 20, 180, 90], "label": "dog"}]'
ONE = '[{"bbox_2d": [10, 10, 60, 60], "label": "cat"}]'
OFF = '[{"bbox_2d": [14, 12, 60, 60], "label": "cat"}, {"bbox_2d": [100, 20, 180, 62], "label": "dog"}]'
"""Overlaps of 0.8832 and 0.6."""


def test_perfect_boxes_are_worth_one_and_missing_ones_cost_recall_alone() -> None:
    assert (precision_reward(BOTH, TRUTH), recall_reward(BOTH, TRUTH)) == pytest.approx((1.0, 1.0))
    assert (precision_reward(ONE, TRUTH), recall_reward(ONE, TRUTH)) == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize(("step", "worth"), [(None, 0.7416), (1, 0.8), (1500, 0.4416)])
def test_thresholds_become_stricter(step: int | None, worth: float) -> None:
    assert precision_reward(OFF, TRUTH, step) == pytest.approx(worth)


def test_a_fence_is_taken_off_and_broken_json_is_read_entry_by_entry() -> None:
    assert read_boxes(f"```json\n{BOTH}\n```") == read_boxes(BOTH)
    assert [one.label for one in read_boxes(ONE + ", [")] == ["cat"]


def test_nothing_to_find_turns_the_rewards_around() -> None:
    empty = Truth(boxes=(), classes={"cat": 1}, size=(200, 100), seen=(200, 100), count=0)
    assert (precision_reward("nothing", empty), recall_reward("nothing", empty)) == (1.0, 1.0)
    assert format_reward("nothing", 0) == 1.0
    assert precision_reward(ONE, empty) == 0.0
    assert recall_reward(ONE, empty) == 0.0


def test_numbers_beyond_any_picture_are_no_box() -> None:
    for number in ("1e39", "1" + 60 * "0", "NaN"):
        assert read_boxes(f'[{{"bbox_2d": [1, 1, {number}, 4], "label": "cat"}}]') == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bbox_2d", "label", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON.map(json.dumps) | st.text(max_size=60))
def test_whatever_is_written_has_a_reward(answer: str) -> None:
    for reward in (precision_reward(answer, TRUTH), recall_reward(answer, TRUTH), format_reward(answer, 2)):
        assert -1.0 <= reward <= 1.0
