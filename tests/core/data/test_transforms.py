"""Drawn steps must move pixels, boxes, points, polygons and bitmaps alike, and back again."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.data.transforms import Crop, Flip, Pad, Resize, Transform, shortest_edge, tight_boxes
from mmcore.errors import DataError
from mmcore.geometry import masks
from PIL import Image


@st.composite
def transforms(draw):
    """Any sensible list of steps for an image of 20 to 60 pixels a side."""
    size = draw(st.tuples(st.integers(20, 60), st.integers(20, 60)))
    result = Transform(size)
    for kind in draw(st.lists(st.sampled_from(["flip", "resize", "crop", "pad"]), max_size=5)):
        height, width = result.output_size
        if kind == "flip":
            result = result.then(Flip())
        elif kind == "resize":
            result = result.then(Resize(draw(st.integers(8, 90)), draw(st.integers(8, 90))))
        elif kind == "crop":
            y0, x0 = draw(st.integers(0, height - 4)), draw(st.integers(0, width - 4))
            result = result.then(Crop(x0, y0, draw(st.integers(4, width)), draw(st.integers(4, height))))
        else:
            result = result.then(Pad(draw(st.integers(8, 100)), draw(st.integers(8, 100)), 128))
    return result


def star(centre, radius, count=7):
    """A simple polygon, [x0, y0, x1, y1, ...]."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    reach = radius * np.where(np.arange(count) % 2, 0.6, 1.0)
    return np.stack((centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)), 1).reshape(-1).tolist()


@settings(max_examples=150, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_everything_moves_alike(transform, seed):
    rng = np.random.default_rng(seed)
    height, width = transform.size
    points = rng.uniform(0, 1, (5, 2)) * (width, height)
    bitmaps = rng.random((3, height, width)) < 0.5
    image = np.repeat(bitmaps[0][..., None], 3, axis=2).astype(np.uint8) * 255

    assert transform.image(image).shape[:2] == transform.output_size
    assert transform.bitmaps(bitmaps).shape == (3, *transform.output_size)
    boxes = np.concatenate((points, points + 3), axis=1)
    corners = transform.points(boxes.reshape(-1, 2, 2))
    out_height, out_width = transform.output_size
    expected = np.concatenate((corners.min(1), corners.max(1)), axis=1)
    expected = expected.clip(0, np.array([out_width, out_height] * 2))
    assert np.allclose(transform.boxes(boxes), expected)


@settings(max_examples=150, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_inverse_brings_points_and_boxes_back(transform, seed):
    rng = np.random.default_rng(seed)
    height, width = transform.size
    points = rng.uniform(0, 1, (8, 2)) * (width, height)
    assert np.allclose(transform.inverse_points(transform.points(points)), points, atol=1e-9)
    boxes = np.concatenate((points, points + 5), axis=1)
    moved = np.sort(transform.points(boxes.reshape(-1, 2, 2)), axis=1).reshape(-1, 4)
    assert np.allclose(transform.inverse_boxes(moved), boxes, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_bitmaps_are_looked_up_as_pillow_would_step_by_step(transform, seed):
    bitmap = np.random.default_rng(seed).integers(0, 2, transform.size).astype(np.uint8)
    picture = Image.fromarray(bitmap)
    for step in transform.steps:
        if isinstance(step, Resize):
            picture = picture.resize((step.width, step.height), Image.Resampling.NEAREST)
        elif isinstance(step, Pad):
            canvas = Image.new("L", tuple(reversed(step.resized((picture.height, picture.width)))), 0)
            canvas.paste(picture)
            picture = canvas
        else:
            picture = step.pixels(picture)
    assert np.array_equal(transform.bitmaps(bitmap[None])[0], np.asarray(picture) != 0)


@settings(max_examples=60, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_a_polygon_fills_what_its_box_says(transform, seed):
    rng = np.random.default_rng(seed)
    height, width = transform.size
    polygon = star(rng.uniform(0.2, 0.8, 2) * (width, height), rng.uniform(4, 12))
    filled = transform.masks([[polygon]])
    corners = np.array(polygon).reshape(-1, 2)
    box = transform.boxes(np.concatenate((corners.min(0), corners.max(0)))[None])[0]
    if filled.any():
        tight = tight_boxes(filled)[0]
        assert (tight[:2] >= box[:2] - 1).all()
        assert (tight[2:] <= box[2:] + 1).all()


def test_a_cropped_polygon_is_the_crop_of_the_whole_filling():
    size, crop = (60, 80), Crop(13, 7, 40, 31)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        polygon = star(rng.uniform(0, 1, 2) * (80, 60), rng.uniform(5, 30))
        whole = masks.polygons_to_bitmap([polygon], *size)[7:38, 13:53].astype(bool)
        cut = Transform(size, (crop,)).masks([[polygon]])[0]
        # New corners are rounded to a fifth of a pixel, so a border pixel may differ.
        assert (whole != cut).sum() <= 3


def test_a_polygon_cut_into_parts_has_no_bridge_between_them():
    comb = [0, 0, 40, 0, 40, 40, 30, 40, 30, 10, 10, 10, 10, 40, 0, 40]  # an upside down U
    cut = Transform((50, 50), (Crop(0, 20, 50, 30),)).masks([[comb]])[0]
    assert cut[:20, :10].all()
    assert cut[:20, 30:40].all()
    assert not cut[:, 10:30].any()


def test_an_object_outside_the_crop_is_empty():
    crop = Transform((50, 50), (Crop(30, 30, 20, 20), Resize(64, 64)))
    rle = {"size": [50, 50], "counts": [50 * 50]}
    polygon = [[1, 1, 20, 1, 20, 20, 1, 20]]
    result = crop.masks([polygon, rle, [], polygon])
    assert result.shape == (4, 64, 64)
    assert not result.any()


def test_mixed_polygons_and_run_lengths_stay_in_order():
    bitmap = np.zeros((40, 50), np.uint8)
    bitmap[5:20, 30:45] = 1
    rle = masks.encode(bitmap)
    square = [[2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]]
    result = Transform((40, 50), (Flip(),)).masks([square, rle, square])
    assert np.array_equal(result[1], bitmap[:, ::-1] != 0)
    assert np.array_equal(result[0], result[2])
    assert tight_boxes(result).tolist() == [[38, 3, 48, 13], [5, 5, 20, 20], [38, 3, 48, 13]]


def test_whole_numbers_are_rounded_towards_zero_by_a_resize():
    transform = Transform((60, 84), (Resize(56, 78),))
    boxes = np.array([[5.0, 6.0, 35.0, 34.0]] * 2)
    moved = transform.boxes(boxes, np.array([True, False]))
    assert moved[0].tolist() == [4, 5, 32, 31]
    assert np.allclose(moved[1], [5 * 78 / 84, 6 * 56 / 60, 35 * 78 / 84, 34 * 56 / 60])


def test_whole_number_polygons_are_rounded_until_a_crop_makes_new_corners():
    integers, floats = [5, 6, 35, 6, 35, 34, 5, 34], [5.0, 6, 35, 6, 35, 34, 5, 34]
    resize = Transform((60, 84), (Resize(56, 78),))
    rounded = [4, 5, 32, 5, 32, 31, 4, 31]
    assert np.array_equal(resize.masks([[integers]])[0], masks.polygons_to_bitmap([rounded], 56, 78) != 0)
    assert not np.array_equal(resize.masks([[integers]]), resize.masks([[floats]]))
    after_crop = Transform((60, 84), (Crop(0, 0, 84, 60), Resize(56, 78)))
    assert np.array_equal(after_crop.masks([[integers]]), resize.masks([[floats]]))


def test_flip_twice_is_no_flip():
    image = np.random.default_rng(0).integers(0, 255, (7, 9, 3), np.uint8)
    twice = Transform((7, 9), (Flip(), Flip()))
    assert not twice.flipped
    assert np.array_equal(twice.image(image), image)
    assert Transform((7, 9), (Flip(), Resize(3, 3))).flipped


def test_padding_is_grey_in_the_image_and_empty_in_masks():
    padded = Transform((4, 5), (Pad(6, 8, 128),))
    image = padded.image(np.full((4, 5, 3), 7, np.uint8))
    assert (image[:4, :5] == 7).all()
    assert (image[4:] == 128).all()
    assert (image[:, 5:] == 128).all()
    mask = padded.bitmaps(np.ones((1, 4, 5), np.uint8))[0]
    assert mask[:4, :5].all()
    assert mask.sum() == 20


@pytest.mark.parametrize(
    ("size", "side", "limit", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((500, 500), 333, 1333, (333, 333)),
        ((1, 1000), 800, 1333, (1, 1333)),
    ],
)
def test_the_shorter_edge_gets_its_length_unless_the_longer_exceeds_its_limit(size, side, limit, expected):
    resize = shortest_edge(size, side, limit)
    assert (resize.height, resize.width) == expected


def test_tight_boxes_end_after_the_last_pixel_and_are_zero_for_nothing():
    bitmaps = np.zeros((2, 10, 12), bool)
    bitmaps[0, 3:5, 7:12] = True
    assert tight_boxes(bitmaps).tolist() == [[7, 3, 12, 5], [0, 0, 0, 0]]


def test_a_transform_travels_between_processes():
    transform = Transform((30, 40), (Flip(), Resize(20, 20), Crop(1, 2, 10, 11), Pad(32, 32, 128)))
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    image = np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)
    assert np.array_equal(copy.image(image), transform.image(image))


def test_images_and_masks_of_another_size_are_refused():
    transform = Transform((30, 40), (Flip(),))
    with pytest.raises(DataError, match="31x40"):
        transform.image(np.zeros((31, 40, 3), np.uint8))
    with pytest.raises(DataError, match="40x30"):
        transform.masks([{"size": [40, 30], "counts": [1200]}])


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], ["a"] * 6, [float("nan")] * 6])
def test_a_polygon_that_is_none_is_refused(polygon):
    with pytest.raises(DataError, match="polygon"):
        Transform((30, 40), (Resize(20, 20),)).masks([[polygon]])


def test_filling_equals_the_plain_rasteriser_when_nothing_is_done():
    polygons = [star((20, 15), 12), star((5, 25), 9, 5)]
    expected = masks.polygons_to_bitmap(polygons, 30, 40)
    assert np.array_equal(Transform((30, 40)).masks([polygons])[0], expected != 0)


@settings(max_examples=40, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_planes_are_the_image_with_channels_first(transform, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*transform.size, 3), np.uint8)
    planes = transform.planes(Image.fromarray(image))
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, transform.image(image).transpose(2, 0, 1))


@pytest.mark.parametrize("encoded", [False, True], ids=["polygons", "mixed"])
@settings(max_examples=40, deadline=None)
@given(transforms(), st.integers(0, 2**32))
def test_visible_masks_are_the_chosen_ones_that_show_a_pixel(encoded, transform, seed):
    rng = np.random.default_rng(seed)
    height, width = transform.size
    objects = [[star(rng.uniform(0, 1, 2) * (width, height), rng.uniform(1, 9))] for _ in range(6)]
    if encoded:
        objects[2] = masks.polygons_to_rle(objects[2], height, width)
    chosen = rng.random(6) < 0.7
    found, shown = transform.visible(objects, chosen)
    whole = transform.masks(objects)
    np.testing.assert_array_equal(shown, chosen & whole.any(axis=(1, 2)))
    np.testing.assert_array_equal(found, whole[shown])


def test_an_object_that_is_not_chosen_is_checked_all_the_same():
    with pytest.raises(DataError, match="polygon has 4 numbers"):
        Transform((8, 8)).visible([[[0, 0, 4, 4]]], np.array([False]))
