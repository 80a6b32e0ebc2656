"""Masks round-trip between formats, and nothing malformed reaches the C decoder."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmcore.errors import DataError, UnsafeDataError
from mmcore.geometry import masks
from pycocotools import mask as coco_mask

bitmaps = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 1))


@given(bitmaps)
def test_bitmaps_round_trip_through_run_lengths(bitmap):
    rle = masks.encode(bitmap)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(masks.decode(rle), bitmap)
    assert masks.area(rle) == bitmap.sum()


@given(bitmaps)
def test_the_python_reading_of_counts_is_that_of_the_c_code(bitmap):
    column = bitmap.flatten(order="F")
    edges = np.flatnonzero(np.diff(column)) + 1
    expected = np.diff(np.concatenate(([0], edges, [len(column)])))
    if column[0]:
        expected = np.concatenate(([0], expected))
    np.testing.assert_array_equal(masks._runs([masks.encode(bitmap)["counts"].encode()], None)[0], expected)


@given(bitmaps)
def test_the_tight_box_ends_one_past_the_last_pixel(bitmap):
    box = masks.tight_box(bitmap)
    if box is None:
        assert not bitmap.any()
        return
    left, top, right, bottom = box
    assert bitmap[top:bottom, left:right].sum() == bitmap.sum()
    assert bitmap[top].any()
    assert bitmap[bottom - 1].any()
    assert bitmap[:, left].any()
    assert bitmap[:, right - 1].any()


def test_several_masks_are_encoded_and_decoded_at_once():
    stack = np.random.default_rng(0).integers(0, 2, (5, 7, 9), np.uint8)
    np.testing.assert_array_equal(masks.decode_all(masks.encode_all(stack)), stack)
    assert masks.encode_all(stack[:0]) == []


@given(bitmaps)
def test_only_where_an_object_lies_is_written_and_the_bitmap_is_whole(bitmap):
    rle = masks.encode(bitmap)
    np.testing.assert_array_equal(masks.decode_all([rle, rle]), np.stack([bitmap, bitmap]))


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 8))
@example([0, 0, 3, 0, 2, 4], 3)
def test_runs_of_no_length_change_nothing(counts, height):
    counts = [*counts, -sum(counts) % height + height]  # filled up to whole columns
    expected = np.repeat(np.arange(len(counts)) % 2, counts).reshape(-1, height).T
    rle = {"size": [height, sum(counts) // height], "counts": counts}
    np.testing.assert_array_equal(masks.decode_all([rle])[0], expected)


def test_uncompressed_counts_become_compressed():
    rle = masks.compress({"size": [60, 84], "counts": [0, 20, 5020]})
    assert rle == {"size": [60, 84], "counts": "0d0ll4"}


def test_polygons_are_drawn_as_pycocotools_draws_them():
    polygons = [[1, 1, 8, 1, 8, 6, 1, 6], [10, 2, 14, 2, 12, 9]]
    drawn = masks.to_bitmap(polygons, 12, 16)
    expected = coco_mask.merge(coco_mask.frPyObjects(polygons, 12, 16))
    assert masks.encode(drawn)["counts"] == expected["counts"].decode()


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(1, 40), st.integers(1, 40))
def test_random_counts_are_refused_or_describe_exactly_their_size(counts, height, width):
    try:
        masks.check_rle({"size": [height, width], "counts": counts})
    except DataError:
        return
    decoded = masks.decode({"size": [height, width], "counts": counts})
    assert decoded.shape == (height, width)
    assert coco_mask.area({"size": [height, width], "counts": counts}) == decoded.sum()


@settings(max_examples=300)
@given(
    st.text(st.characters(min_codepoint=40, max_codepoint=115) | st.characters(), max_size=12),
    st.integers(1, 9),
    st.integers(1, 9),
)
@example("0\u2610", 3, 5)
@example("\u016f?", 1, 1)
@example("0\udc3f", 3, 5)
def test_what_reaches_the_c_code_is_what_was_checked(counts, height, width):
    """A character that one encoding turns into '?' and another into three bytes once passed the check as the first."""
    try:
        safe = masks.compress({"size": [height, width], "counts": counts})
    except DataError:
        return
    assert safe["counts"] == counts
    assert counts.isascii()
    assert int(coco_mask.area(safe)) == masks.area(safe) <= height * width
    assert int(coco_mask.iou([safe], [safe], [0])[0, 0]) in (0, 1)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 4], "counts": "P"}, "end inside a number"),
        ({"size": [4, 4], "counts": "o" * 5000 + "0"}, "more than 30 bits"),
        ({"size": [4, 4], "counts": "\x00\xff"}, "outside"),
        ({"size": [4, 4], "counts": "é漢"}, "outside"),
        ({"size": [3, 5], "counts": "0\u2610"}, "outside"),
        ({"size": [4, 4], "counts": [4, 4.5]}, "whole numbers"),
        ({"size": [4, 4], "counts": [1 << 70]}, "whole numbers"),
        ({"size": [4, 4], "counts": None}, "neither"),
        ({"size": [1 << 20, 1 << 20], "counts": "0"}, "budget"),
        ({"size": [4], "counts": "0"}, r"not \[height, width\]"),
        ({"size": [-4, 4], "counts": "0"}, r"not \[height, width\]"),
        ({"size": [True, 4], "counts": "4"}, r"not \[height, width\]"),
        ({"counts": "0"}, r"not \[height, width\]"),
    ],
)
def test_hostile_run_lengths_are_refused_before_decoding(rle, message):
    with pytest.raises(UnsafeDataError, match=message):
        masks.decode(rle, where="instances.json, annotation 7")


@pytest.mark.parametrize("counts", ["f0", [15], [20, -4]])
def test_run_lengths_of_another_size_are_refused(counts):
    with pytest.raises(DataError, match=r"covers|negative"):
        masks.decode({"size": [4, 4], "counts": counts})


@pytest.mark.parametrize(
    "polygon",
    [
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, float("nan"), 5, 6],
        [0, 0, 1e12, 0, 5, 5],
        [1e300] * 6,
        ["a"] * 6,
        [10**400] * 6,
    ],
)
def test_unusable_polygons_are_refused(polygon):
    with pytest.raises(DataError, match="polygon"):
        masks.polygons_to_bitmap([polygon], 10, 10)


def test_a_mask_of_another_image_is_refused_with_both_sizes():
    with pytest.raises(DataError, match=r"4x6.*8x8") as error:
        masks.to_bitmap(masks.encode(np.ones((4, 6), np.uint8)), 8, 8, where="annotation 3")
    assert "annotation 3" in str(error.value)


@given(st.lists(st.lists(st.lists(st.floats(-9, 30), min_size=6, max_size=12), max_size=2), min_size=1, max_size=5))
def test_polygons_drawn_together_are_those_drawn_one_by_one(objects):
    objects = [[ring[: len(ring) // 2 * 2] for ring in rings] for rings in objects]
    rings = [ring for polygons in objects for ring in polygons]
    points = np.concatenate([np.zeros((0, 2)), *(np.reshape(ring, (-1, 2)) for ring in rings)])
    lengths = np.array([len(ring) // 2 for ring in rings], np.int64)
    owners = np.repeat(np.arange(len(objects)), [len(polygons) for polygons in objects])
    together = masks.rings_to_rles(points, lengths, owners, len(objects), (20, 22))
    for polygons, rle in zip(objects, together, strict=True):
        alone = masks.polygons_to_bitmap(polygons, 20, 22) if polygons else np.zeros((20, 22), np.uint8)
        np.testing.assert_array_equal(masks.decode(rle), alone)
    np.testing.assert_array_equal(masks.areas(together), [masks.area(rle) for rle in together])


@pytest.mark.parametrize("cut", [b"\x20", b"p", b""])
def test_one_bad_text_among_several_is_found(cut):
    good = masks.encode(np.eye(5, dtype=np.uint8))
    bad = {**good, "counts": good["counts"].encode()[:-1] + cut}
    with pytest.raises(DataError):
        masks.decode_all([good, bad, good])


@pytest.mark.parametrize("far", [np.nan, np.inf, 1e9])
def test_no_corner_that_is_no_place_is_drawn(far):
    points = np.array([[0, 0], [5, 0], [5, 5], [0, 0], [far, 0], [2, 2]], np.float64)
    with pytest.raises(DataError):
        masks.rings_to_rles(points, np.array([3, 3]), np.array([0, 1]), 2, (8, 8))
