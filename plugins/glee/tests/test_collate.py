"""A batch holds its samples, the words it is asked about, and nothing that was not drawn from its seed."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcore.contract.values import Draw, Sample
from mmcore.show import draw
from mmcore_glee import vocabulary
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.prompts import PROMPT_PROBABILITY, point_prompts
from mmcore_glee.data.tasks import TASKS


def sample(number, *, size=(40, 50), labels=(0, 1), masks=True, expression=None, phrases=None):
    """An image with a 10 x 8 object per label, object i at (3i, 2i)."""
    rng = np.random.default_rng(number)
    boxes = torch.tensor([[3.0 * i, 2.0 * i, 3.0 * i + 10, 2.0 * i + 8] for i in range(len(labels))]).reshape(-1, 4)
    drawn = torch.zeros((len(labels), *size), dtype=torch.bool)
    for i in range(len(labels)):
        drawn[i, 2 * i : 2 * i + 8, 3 * i : 3 * i + 10] = True
    return Sample(
        image=torch.from_numpy(rng.integers(1, 255, (3, *size), np.uint8)),
        boxes_xyxy=boxes,
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=drawn if masks else None,
        draw=Draw("source", number, number),
        image_id=100 + number,
        original_size=(400, 500),
        expression=expression,
        names=phrases,
    )


def collate(task, **options):
    return Collate(TASKS[task], vocabulary.names(TASKS[task].vocabulary), **options)


def test_padding_is_to_a_multiple_of_32_and_never_reaches_targets():
    batch = collate("coco")([sample(0), sample(1, size=(70, 33))], 0)
    assert batch.images.shape == (2, 3, 96, 64)
    assert batch.image_sizes == ((40, 50), (70, 33))
    assert batch.original_sizes == ((400, 500), (400, 500))
    assert batch.masks.shape == (4, 96, 64)
    for image, (height, width) in enumerate(batch.image_sizes):
        assert (batch.images[image, :, :height, :width] > 0).all()
        assert not batch.images[image, :, height:].any()
        assert not batch.images[image, :, :, width:].any()
        mine = batch.masks[2 * image : 2 * image + 2]
        assert mine.any()
        assert not mine[:, height:].any()
        assert not mine[:, :, width:].any()


def test_boxes_are_fractions_of_the_padded_image():
    batch = collate("coco")([sample(0)], 0)
    assert batch.images.shape[2:] == (64, 64)
    assert torch.allclose(batch.boxes_cxcywh[0], torch.tensor([5 / 64, 4 / 64, 10 / 64, 8 / 64]))
    assert batch.boxes_cxcywh.dtype == torch.float32


def test_counts_say_what_the_losses_are_divided_by():
    batch = collate("coco")([sample(0), sample(1, labels=())], 0)
    assert batch.normalisers == {
        "objects": 2.0,
        "samples": 2.0,
        "batches": 1.0,
        "text_tokens": float(batch.attention_mask.sum()),
    }
    assert batch.num_objects == (2, 0)
    grounding = collate("grounding")([sample(0, labels=(0,), expression="a dog")], 0)
    assert grounding.normalisers["text_tokens"] == 0


def test_a_batch_without_objects_is_a_batch():
    batch = collate("coco")([sample(0, labels=()), sample(1, labels=())], 0)
    assert batch.boxes_cxcywh.shape == (0, 4)
    assert batch.labels.shape == (0,)
    assert batch.masks.shape == (0, 64, 64)
    assert collate("lvis")([sample(0, labels=())], 0).num_classes == 100


def test_closed_sets_are_asked_about_every_name():
    batch = collate("coco")([sample(0, labels=(79, 3))], 0)
    assert batch.names == vocabulary.names("coco")
    assert batch.labels.tolist() == [79, 3]
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.input_ids.shape[0] == 80
    assert batch.attention_mask[:, -1].any()  # padded to the longest name, no further


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1202), max_size=30), st.integers(0, 2**32))
def test_large_sets_are_asked_about_what_occurs_and_random_others(labels, seed):
    names = vocabulary.names("lvis")
    batch = collate("lvis")([sample(0, labels=labels[:15]), sample(1, labels=labels[15:])], seed)
    assert len(batch.names) == len(set(batch.names)) == batch.num_classes == 100
    assert [batch.names[label] for label in batch.labels] == [names[label] for label in labels]
    assert set(batch.labels.tolist()) == set(range(len(set(labels))))


def test_the_other_names_are_drawn_uniformly():
    drawn = Counter(name for seed in range(400) for name in collate("obj365")([sample(0, labels=(5,))], seed).names)
    names = vocabulary.names("obj365")
    assert drawn.pop(names[5]) == 400
    assert len(drawn) == 364
    assert abs(np.mean(list(drawn.values())) - 400 * 99 / 364) < 1
    assert max(drawn.values()) < 160


def test_too_many_labels_lose_their_objects_instead_of_stopping():
    batch = collate("lvis")([sample(0, labels=tuple(range(130)), size=(300, 420))], 3)
    assert batch.num_objects == (100,)
    assert len(batch.masks) == len(batch.boxes_cxcywh) == 100
    assert batch.labels.max() == 99


def test_phrases_are_shuffled_among_others_and_labels_follow():
    pool = vocabulary.phrases()
    one = sample(0, labels=(0, 0, 0), masks=False, phrases=("red bus", "a man", "red bus"))
    two = sample(1, labels=(0,), masks=False, phrases=(pool[3],))
    batch = collate("vg", negatives=pool)([one, two], 5)
    assert len(batch.names) == len(set(batch.names)) == 200
    assert [batch.names[label] for label in batch.labels] == ["red bus", "a man", "red bus", pool[3]]
    places = [collate("grit", negatives=pool)([one], seed).labels[0].item() for seed in range(60)]
    assert len(set(places)) > 20
    assert max(places) < 100


def test_grounding_reads_one_complete_expression_per_image():
    batch = collate("grounding")(
        [sample(0, labels=(0,), expression="left dog"), sample(1, labels=(0,), expression="cat")], 0
    )
    assert batch.expressions == ("left dog", "cat")
    assert batch.names == ()
    assert batch.input_ids.shape == (2, 77)
    assert batch.num_classes == 1
    assert batch.attention_mask.sum(1).tolist() == [4, 3]


def test_box_only_sources_have_no_masks():
    assert collate("obj365")([sample(0, masks=False)], 0).masks is None
    assert not collate("bdd_det")([sample(0, masks=False)], 0).has_masks


def test_a_visual_prompt_keeps_one_object_per_image():
    chosen = collate("coco", prompt_share=PROMPT_PROBABILITY)
    modes = Counter()
    for seed in range(600):
        batch = chosen([sample(0), sample(1, labels=(7, 8, 9))], seed)
        if batch.prompt_masks is None:
            assert batch.num_objects == (2, 3)
            continue
        modes[batch.prompt_mode] += 1
        assert batch.num_objects == (1, 1)
        assert batch.normalisers["objects"] == 2
        assert batch.prompt_masks.shape == (2, 64, 64)
        assert batch.labels[0] in (0, 1)
        kept = (batch.boxes_cxcywh[:, :2] - batch.boxes_cxcywh[:, 2:] / 2) * 64
        given = [{(3.0 * i, 2.0 * i) for i in range(count)} for count in (2, 3)]
        for row in range(2):  # what the prompt does not mean is hidden, and nothing else
            shown = tuple(kept[row].round().tolist())
            assert {box[:2] for box in batch.hidden[row]} == given[row] - {shown}
        if batch.prompt_mode == "mask":
            assert torch.equal(batch.prompt_masks, batch.masks)
    assert 80 < modes.total() < 160
    assert modes["mask"] > modes["point"] > modes["box"] > 0


def test_pictures_show_the_names_that_are_asked_or_the_prompt_and_what_it_hides(monkeypatch):
    drawn = []
    monkeypatch.setattr(draw, "draw_marks", lambda image, marks, runs: drawn.append((marks, runs)) or image)
    chosen = collate("coco", prompt_share=PROMPT_PROBABILITY)
    seen = set()
    for seed in range(60):
        batch = chosen([sample(0), sample(1, labels=(7, 8, 9))], seed)
        drawn.clear()
        assert len(chosen.draw(batch)) == 2
        for (marks, runs), others in zip(drawn, (1, 2), strict=True):
            words, labels = "".join(run.text for run in runs), [mark.label for mark in marks]
            if batch.prompt_masks is None:
                first = ("person, bicycle, car", "truck, boat, traffic light, person")[others - 1]
                assert f"asked for 80 names: {first}" in words
                assert "and 40 more" in words
                assert not any(mark.given for mark in marks)
            else:
                assert f"({batch.prompt_mode}) shows what to find: {others} other object" in words
                assert labels.count("hidden") == others
                assert [mark.label for mark in marks if mark.given] == [f"prompt: {batch.prompt_mode}"]
            seen.add(batch.prompt_masks is None)
    assert seen == {True, False}


def test_no_prompt_without_an_object_in_every_image():
    for seed in range(40):
        batch = collate("coco", prompt_share=PROMPT_PROBABILITY)([sample(0), sample(1, labels=())], seed)
        assert batch.prompt_masks is None
        assert batch.num_objects == (2, 0)


def test_no_prompt_for_tasks_and_stages_without():
    for seed in range(40):
        assert collate("coco")([sample(0)], seed).prompt_masks is None
        assert collate("lvis", prompt_share=PROMPT_PROBABILITY)([sample(0)], seed).prompt_masks is None
        assert collate("coco", prompt_share=PROMPT_PROBABILITY, training=False)([sample(0)], seed).prompt_masks is None


@pytest.mark.parametrize("corner", [(0, 0), (0, 119), (79, 0), (79, 119), (40, 60)])
def test_a_point_prompt_is_never_empty_and_covers_its_pixel(corner):
    mask = torch.zeros((1, 80, 120), dtype=torch.uint8)
    mask[0, corner[0], corner[1]] = 1
    prompt = point_prompts(mask, np.random.default_rng(0))
    assert prompt[0, corner[0], corner[1]] == 1
    assert 0 < prompt.sum() <= 4 * 6


def test_inference_asks_about_everything_and_draws_nothing():
    batch = collate("lvis", training=False)([sample(0, labels=(), masks=False)], 0)
    assert len(batch.names) == 1203
    same = collate("lvis", training=False)([sample(0, labels=(), masks=False)], 99)
    assert torch.equal(same.input_ids, batch.input_ids)


@pytest.mark.parametrize("task", ["coco", "lvis", "sa1b"])
def test_the_same_seed_gives_the_same_batch(task):
    chosen = collate(task, prompt_share=PROMPT_PROBABILITY)
    labels = (0, 0) if task == "sa1b" else (3, 40)
    torch.manual_seed(1)
    first = chosen([sample(0, labels=labels)], 11)
    torch.manual_seed(2)
    np.random.seed(3)
    again = chosen([sample(0, labels=labels)], 11)
    for field in fields(first):
        one, two = getattr(first, field.name), getattr(again, field.name)
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
