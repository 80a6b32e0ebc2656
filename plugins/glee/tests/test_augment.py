"""The pipelines draw what the published mappers draw: same choices, same probabilities, nothing else."""

from collections import Counter

import numpy as np
import pytest
from mmcore.data.transforms import Crop, Flip, Pad, Resize, shortest_edge
from mmcore.errors import RecipeError
from mmcore_glee.data.augment import NO_LIMIT, LargeScaleJitter, Multiscale, pipeline

SIZE = (480, 640)


def draws(chosen, count=2000, size=SIZE, **options):
    return [chosen.train(size, np.random.default_rng(seed), **options) for seed in range(count)]


def test_half_of_the_images_are_flipped_and_half_cropped():
    steps = [transform.steps for transform in draws(Multiscale())]
    flips = sum(isinstance(s[0], Flip) for s in steps)
    crops = sum(any(isinstance(step, Crop) for step in s) for s in steps)
    both = sum(isinstance(s[0], Flip) and any(isinstance(step, Crop) for step in s) for s in steps)
    assert abs(flips - 1000) < 100
    assert abs(crops - 1000) < 100
    assert abs(both - 500) < 100


def test_every_length_is_drawn_about_equally_often():
    chosen = Multiscale(crop_probability=0.0)
    sides = Counter(min(t.output_size) for t in draws(chosen, 4400))
    assert set(sides) == set(chosen.min_sizes)
    assert all(abs(count - 400) < 100 for count in sides.values())


def test_a_crop_is_cut_from_a_resized_image_and_uniform_in_size_and_place():
    chosen = Multiscale(crop_probability=1.0, flip_probability=0.0)
    heights, corners = [], []
    for transform in draws(chosen):
        larger, crop, final = transform.steps
        assert larger in [shortest_edge(SIZE, side, NO_LIMIT) for side in chosen.crop_min_sizes]
        assert min(larger.height, 384) <= crop.height <= min(larger.height, 600)
        assert min(larger.width, 384) <= crop.width <= min(larger.width, 600)
        assert 0 <= crop.y0 <= larger.height - crop.height
        assert 0 <= crop.x0 <= larger.width - crop.width
        assert final in [shortest_edge((crop.height, crop.width), s, 1333) for s in chosen.min_sizes]
        if larger.height == 600:
            heights.append(crop.height)
        if larger.width > crop.width:
            corners.append(crop.x0 / (larger.width - crop.width))
    assert abs(np.mean(heights) - 492) < 15
    assert abs(np.mean(corners) - 0.5) < 0.05


def test_without_crop_nothing_is_cut_off():
    assert not any(isinstance(step, Crop) for t in draws(Multiscale(), 300, crop=False) for step in t.steps)
    for transform in draws(LargeScaleJitter(), 300, crop=False):
        resize = next(step for step in transform.steps if isinstance(step, Resize))
        assert max(resize.height, resize.width) <= 1536


def test_jitter_always_ends_in_the_square():
    chosen = LargeScaleJitter(image_size=256)
    scales = []
    for transform in draws(chosen, 1000):
        assert transform.output_size == (256, 256)
        assert isinstance(transform.steps[-1], Pad)
        resize = next(step for step in transform.steps if isinstance(step, Resize))
        scales.append(resize.width / 256)
        crop = next(step for step in transform.steps if isinstance(step, Crop))
        assert crop.x0 <= max(resize.width - 256, 0)
        assert crop.y0 <= max(resize.height - 256, 0)
    assert abs(np.mean(scales) - 1.05) < 0.06
    assert min(scales) < 0.2
    assert max(scales) > 1.9


def test_a_test_image_is_resized_and_not_flipped():
    assert Multiscale().test((480, 640)).steps == (Resize(800, 1067),)
    assert Multiscale().test((300, 900)).output_size == (444, 1333)
    assert LargeScaleJitter().test((480, 640)).steps == (
        Resize(1152, 1536),
        Crop(0, 0, 1536, 1536),
        Pad(1536, 1536, 128),
    )


def test_a_drawing_depends_on_seed_and_size_only():
    chosen = Multiscale()
    first = [chosen.train(SIZE, np.random.default_rng(7)) for _ in range(3)]
    np.random.default_rng(0).random(5)
    assert first[0] == first[1] == first[2] == chosen.train(SIZE, np.random.default_rng(7))
    assert len({chosen.train(SIZE, np.random.default_rng(seed)) for seed in range(50)}) > 30


def test_numbers_come_from_the_recipe_and_unknown_ones_are_refused():
    chosen = pipeline({"pipeline": "multiscale", "min_sizes": (112, 128), "max_size": 192, "crop_probability": 0})
    assert chosen == Multiscale(min_sizes=(112, 128), max_size=192, crop_probability=0)
    with pytest.raises(RecipeError, match="did you mean 'min_sizes'"):
        pipeline({"min_size": (1, 2)})
    with pytest.raises(RecipeError, match="did you mean 'multiscale'"):
        pipeline({"pipeline": "multi_scale"})


@pytest.mark.parametrize(
    "wrong",
    [{"flip_probability": 1.5}, {"max_size": 0}, {"min_sizes": ()}, {"crop_range": (600, 384)}, {"min_sizes": ("a",)}],
)
def test_numbers_without_sense_are_refused(wrong):
    with pytest.raises(RecipeError):
        pipeline(wrong)
