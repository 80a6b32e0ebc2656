"""Conversations in a batch: planned, counted, images by role, and drawn with the learned tokens marked."""

import numpy as np
import pytest
import torch
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Draw, Encoded, Turn
from mmcore.language.batch import ConversationBatch
from mmcore.language.collate import ConversationCollator
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.show.batch import draw_batch

TURNS = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A cup."))


def sample(number, images=1, length=6, **more):
    ids = np.array([1, *[IMAGE] * images, *range(2, 1 + length)])
    labels = np.where(np.arange(len(ids)) > images + 2, ids, IGNORE)
    pixels = tuple(torch.full((3, 8, 8), number + 0.1 * image) for image in range(images))
    return ConversationSample(
        encoded=Encoded(ids, labels), turns=TURNS, images={MAIN: pixels} if images else {},
        draw=Draw("talk", number, number), image_id=f"{number}.jpg" if images else None,
        original_size=(20, 30) if images else (0, 0), record_id=number, **more,
    )  # fmt: skip


def collator(**changes):
    return ConversationCollator(**{"expansion": {IMAGE: (("image", 4),)}, "image_size": 8, "max_length": 40} | changes)


@pytest.mark.parametrize("layout", [{}, {"padding_side": "left"}, {"pack_to": 64}], ids=["right", "left", "packed"])
def test_every_image_has_a_row_and_belongs_to_its_sample(layout):
    batch = collator(**layout)([sample(0, 2), sample(1, 0, length=9), sample(2)], 0)
    assert isinstance(batch, ConversationBatch)
    assert batch.images.shape == (3, 3, 8, 8)
    assert batch.image_samples.tolist() == [0, 0, 2]
    assert batch.num_samples == len(batch) == 3
    assert batch.record_ids == (0, 1, 2)
    assert len(batch.sequences.slots["image"]) == 3 * 4


def test_tokens_samples_positions_and_padding_are_counted_and_nothing_is_lost():
    batch = collator()([sample(0), sample(1, 0, length=9)], 0)
    rows, length = batch.sequences.shape
    assert batch.normalisers == {"tokens": float(len(batch.sequences.targets)), "samples": 2.0}
    assert batch.statistics["positions"] + batch.statistics["padding"] == rows * length
    assert (batch.statistics["images"], batch.statistics["cut"]) == (1.0, 0.0)
    assert collator(max_length=9)([sample(0), sample(1, 0)], 0).statistics["cut"] == 1.0


def test_other_networks_get_their_images_or_their_features_where_there_is_an_image():
    live = [sample(0), sample(1, 0), sample(2)]
    for one in (live[0], live[2]):
        one.images[SEGMENT] = (torch.full((3, 16, 16), one.record_id),)
    batch = collator()(live, 0)
    assert batch.other_images[SEGMENT][:, 0, 0, 0].tolist() == [0, 2]
    assert not batch.features
    cached = collator()([sample(0, features={"sam": torch.ones(5)}), sample(1, 0)], 0)
    assert cached.features["sam"].shape == (1, 5)


def test_the_longest_answer_asked_for_counts_and_text_alone_has_no_images():
    batch = collator()([sample(0, 0, max_new_tokens=8), sample(1, 0, max_new_tokens=20)], 0)
    assert batch.max_new_tokens == 20
    assert batch.images.shape == (0, 3, 8, 8)
    assert collator()([sample(0, 0)], 0).max_new_tokens is None


def test_batches_travel_and_are_drawn_one_picture_a_sample_with_the_learned_tokens_filled():
    collate = collator()
    batch = collate([sample(0), sample(1, 0)], 0).to("cpu")
    pictures = draw_batch(batch, collate)
    assert len(pictures) == 2
    assert pictures[0].height > pictures[1].height, "the first has its picture above its tokens"
    assert all(np.all(np.asarray(picture) == (86, 180, 233), -1).any() for picture in pictures)
