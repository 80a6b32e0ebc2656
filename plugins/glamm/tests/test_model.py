"""Properties of the model: what costs nothing when it is absent, what a mask depends on, what comes out."""

import numpy as np
import pytest
import torch
from mmcore.contract.values import SEGMENT
from mmcore.errors import DataError, RecipeError, UsageError
from mmcore.language.sequence import IMAGE
from mmcore_glamm.batch import collator_of, segs_within
from mmcore_glamm.config import TINY
from mmcore_glamm.model import Glamm


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Glamm(TINY).eval()


def values(losses, batch):
    return {name: loss.total.item() / max(batch.normalisers[loss.per], 1.0) for name, loss in losses.items()}


def test_every_kind_of_batch_has_its_losses(model, ranks):
    for kind in ranks.KINDS:
        batch = ranks.tiny_batch(kind)
        found = values(model(batch), batch)
        assert list(found) == (["text", "mask_bce", "mask_dice"] if kind == "seg" else ["text"])
        assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("text", ("tower", "region_encoder", "sam.image_encoder", "seg_projection")),
        ("caption", ("region_encoder", "sam.image_encoder", "sam.mask_decoder", "seg_projection")),
        ("region", ("sam.image_encoder", "sam.mask_decoder", "seg_projection")),
        ("seg", ("region_encoder",)),
    ],
)
def test_parts_that_a_batch_does_not_need_are_not_run(model, ranks, kind, parts):
    ran = []
    handles = [model.get_submodule(p).register_forward_hook(lambda *_, p=p: ran.append(p)) for p in parts]
    model(ranks.tiny_batch(kind))
    for handle in handles:
        handle.remove()
    assert ran == []


def test_a_picture_is_encoded_once_however_many_conversations_speak_of_it(ranks):
    rng = np.random.default_rng(0)
    samples = [
        ranks.sample("seg", 1, rng),
        ranks.sample("seg", 0, rng),
        ranks.sample("seg", 1, np.random.default_rng(0)),
    ]
    batch = collator_of(TINY, ranks.IDS, 512)(samples, 0)
    assert len(batch.images) == len(batch.other_images[SEGMENT]) == 2
    assert batch.image_rows.tolist() == [0, 1, 0]
    assert batch.mask_rows.tolist() == [0, 0, 1, 0, 0]
    assert [len(masks) for masks in batch.masks] == [2, 1, 2]


def test_the_loss_of_a_batch_is_the_sum_over_its_samples(model, ranks):
    rng = np.random.default_rng(3)
    samples = [ranks.sample("seg", number, rng) for number in range(3)]
    collate = collator_of(TINY, ranks.IDS, 512)
    whole = model(collate(samples, 0))
    alone = [model(collate([sample], 0)) for sample in samples]
    for name, loss in whole.items():
        total = sum(one[name].total.item() for one in alone)
        assert loss.total.item() == pytest.approx(total, rel=1e-4), name


def test_cached_maps_give_the_losses_of_live_ones(model, ranks):
    from dataclasses import replace

    batch = ranks.tiny_batch("seg")
    with torch.no_grad():
        maps = model.maps(batch)
    cached = replace(batch, other_images={}, features={SEGMENT: maps})
    assert values(model(cached), cached) == pytest.approx(values(model(batch), batch), rel=1e-5)


def test_a_number_of_boxes_or_masks_that_does_not_fit_is_refused(ranks):
    from dataclasses import replace

    rng = np.random.default_rng(0)
    collate = collator_of(TINY, ranks.IDS, 512)
    with pytest.raises(DataError, match="1 <bbox> and 0 boxes"):
        collate([replace(ranks.sample("region", 0, rng), prompts=())], 0)
    seg = ranks.sample("seg", 1, rng)
    with pytest.raises(DataError, match=r"2 \[SEG\] and 1 masks"):
        collate([replace(seg, regions=seg.regions[:1])], 0)
    wrong = replace(seg.regions[0], mask=torch.zeros(3, 4, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"a mask of \(3, 4\)"):
        collate([replace(seg, regions=(wrong, *seg.regions[1:]))], 0)


def test_a_mask_whose_word_was_cut_is_noticed(ranks):
    seg = ranks.sample("seg", 1, np.random.default_rng(0))
    rows, whole = TINY.image_tokens, len(seg.encoded.ids) - 1 + TINY.image_tokens
    assert segs_within(seg.encoded, ranks.IDS, rows, whole) == 2
    assert segs_within(seg.encoded, ranks.IDS, rows, whole - 6) == 1
    collate = collator_of(TINY, ranks.IDS, whole - 6)
    with pytest.raises(DataError, match=r"1 \[SEG\] and 2 masks"):
        collate([seg], 0)
    loose = collator_of(TINY.replace(published={"cut_masks": True}), ranks.IDS, whole - 6)
    assert loose([seg], 0).num_masks == (1,)


def test_boxes_beyond_the_words_are_left_out_and_one_serves_all(ranks):
    from dataclasses import replace

    region = ranks.sample("region", 0, np.random.default_rng(0))
    twice = replace(region.encoded, ids=np.append(region.encoded.ids, 1002), labels=np.append(region.encoded.labels, 2))
    collate = collator_of(TINY, ranks.IDS, 512)
    assert len(collate([replace(region, encoded=twice)], 0).boxes) == 2
    assert len(collate([replace(region, prompts=region.prompts * 3)], 0).boxes) == 1


def test_an_answer_has_text_and_masks_of_the_picture_size(model):
    images = [np.full((40, 60, 3), 30, np.uint8), np.full((50, 30, 3), 220, np.uint8)]
    batch = model.prepare(images, prompt="Segment [1, 2, 20, 30] please.")
    corners = torch.tensor([1.0, 2.0, 20.0, 30.0])
    sides = torch.tensor([[60.0, 40.0, 60.0, 40.0], [30.0, 50.0, 30.0, 50.0]])
    torch.testing.assert_close(batch.boxes, corners / sides)
    batch.max_new_tokens = 6
    found = model.predict(batch)
    assert [prediction.size for prediction in found] == [(40, 60), (50, 30)]
    assert IMAGE not in batch.sequences.ids
    with pytest.raises(UsageError, match="two things"):
        model.prepare(images, prompt="a", names=["b"])


def test_answers_are_the_same_one_by_one_and_in_a_batch(model):
    images = [np.full((40, 60, 3), 30, np.uint8), np.full((50, 30, 3), 220, np.uint8)]
    together = model.prepare(images, prompt="What is it?")
    together.max_new_tokens = 6
    for image, prediction in zip(images, model.predict(together), strict=True):
        one = model.prepare([image], prompt="What is it?")
        one.max_new_tokens = 6
        assert model.predict(one)[0].text == prediction.text


def test_a_tokenizer_without_the_words_is_refused_where_they_are_not_to_be_added():
    config = TINY.replace(add_tokens=False)
    with pytest.raises(RecipeError, match=r"lacks .*\[SEG\]"):
        Glamm(config).tokenizer  # noqa: B018 opening is what is tried
    with pytest.raises(RecipeError, match="the model has 300 words"):
        Glamm(TINY.replace(language={"vocab_size": 300})).tokenizer  # noqa: B018


def test_half_precision_keeps_the_losses_in_float32_and_close(model, ranks):
    batch = ranks.tiny_batch("seg")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)
    assert {loss.total.dtype for loss in low.values()} == {torch.float32}
    assert values(low, batch) == pytest.approx(values(model(batch), batch), rel=0.05)
