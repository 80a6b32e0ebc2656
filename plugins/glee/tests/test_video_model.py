"""Clips: the contrast between frames, queries followed through a video, and prompts shown in the first frame."""

import dataclasses

import pytest
import torch
from mmcore.contract.values import Draw
from mmcore.errors import ShapeError
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import TINY
from mmcore_glee.model import Glee
from mmcore_glee.outputs import DecoderOutputs, Draws, QueryOutputs
from mmcore_glee.tokenizer import tokenise
from mmcore_glee.track_loss import ABSENT, OTHER, Tracked, contrast, tracked_objects
from mmcore_glee.tracking import Associator, associate
from torch import Tensor

CONFIG = TINY.replace(num_queries=12, denoising_queries=6, mask_points=64, prompt_points=16)


def clips(num_frames: tuple[int, ...] = (2, 1), *, prompt: bool = False) -> GleeBatch:
    """One object in every frame, the same thing throughout a clip."""
    total = sum(num_frames)
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(total, 64, 96, dtype=torch.uint8)
    for i, mask in enumerate(masks):
        mask[8 * i : 8 * i + 24, 10 : 40 + i] = 1
    names = ("cat", "red bus")
    ids, valid = tokenise(names)
    counts = (1,) * total
    return GleeBatch(
        source="clips",
        draws=tuple(Draw("clips", i, i) for i in range(len(num_frames))),
        normalisers={
            "objects": float(total),
            "batches": 1.0,
            "text_tokens": float(valid.sum()),
            "tracked_objects": float(tracked_objects(counts, num_frames)),
        },
        images=torch.randint(0, 256, (total, 3, 64, 96), dtype=torch.uint8, generator=generator),
        image_sizes=((64, 96),) * total,
        original_sizes=((96, 144),) * total,
        image_ids=(0,) * total,
        num_objects=counts,
        labels=torch.arange(total) % 2,
        boxes_cxcywh=torch.rand(total, 4, generator=generator) * 0.4 + 0.3,
        masks=masks,
        task="ytvis19",
        names=names,
        input_ids=ids,
        attention_mask=valid,
        num_frames=num_frames,
        track_ids=torch.cat([torch.full((count,), clip) for clip, count in enumerate(num_frames)]),
        prompt_masks=masks[: len(num_frames)] if prompt else None,
    )


def plain_contrast(reference: Tensor, ids: Tensor, key: Tensor, key_ids: Tensor) -> Tensor:
    """All pairs of pairs, one by one."""
    scores = reference @ key.T
    same = ids[:, None] == key_ids[None]
    total = torch.ones((), dtype=scores.dtype)
    for positive in scores[same]:
        for negative in scores[~same]:
            total = total + (negative - positive).exp()
    return total.log()


def test_the_contrast_is_that_of_all_pairs_of_pairs() -> None:
    torch.manual_seed(0)
    reference, key = torch.randn(3, 7, 5), torch.randn(3, 4, 5)
    ids = torch.tensor([[1, 2, 3, OTHER, OTHER, ABSENT, ABSENT], [4, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER]] * 2)[:3]
    key_ids = torch.tensor([[3, 1, 9, ABSENT], [ABSENT] * 4, [8, 2, ABSENT, ABSENT]])
    reference.requires_grad_()
    total = contrast(Tracked(reference, ids), Tracked(key, key_ids))
    expected = torch.zeros(())
    for frame in (0, 2):
        rows, keys = ids[frame] != ABSENT, key_ids[frame] != ABSENT
        expected = expected + plain_contrast(
            reference[frame][rows], ids[frame][rows], key[frame][keys], key_ids[frame][keys]
        )
    torch.testing.assert_close(total, expected)
    (gradient,) = torch.autograd.grad(total, reference, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, reference)[0])


def test_frames_without_objects_give_a_contrast_of_nothing_with_a_gradient() -> None:
    reference = torch.randn(1, 3, 5, requires_grad=True)
    total = contrast(
        Tracked(reference, torch.full((1, 3), OTHER)), Tracked(torch.zeros(1, 0, 5), torch.zeros(1, 0).long())
    )
    total.backward()
    assert total == 0
    assert torch.equal(reference.grad, torch.zeros_like(reference))


def test_only_objects_after_the_first_frame_of_a_clip_are_counted() -> None:
    assert tracked_objects((3, 2, 1, 5, 4), (3, 2)) == 2 + 1 + 4
    assert tracked_objects((3, 2), (1, 1)) == 0


def outputs(order: list[list[int]], dim: int = 8) -> DecoderOutputs:
    """Frames in which query j is the thing order[frame][j]; logits, boxes and mask embeddings name the thing too."""
    things = torch.tensor(order)
    embed = torch.eye(dim)[things] + 0.05 * torch.randn(*things.shape, dim)
    final = QueryOutputs(things[..., None].float(), things[..., None].float().expand(-1, -1, 4) / 10, embed)
    return DecoderOutputs({"final": final}, torch.randn(len(order), dim, 3, 3), track_embed=embed)


def test_things_are_followed_through_frames_in_which_their_queries_change_places() -> None:
    torch.manual_seed(1)
    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1], [0, 2, 1, 3]]
    tracks = associate(iter([outputs(orders[:2]), outputs(orders[2:])]))
    assert (tracks.boxes_cxcywh[..., 0] * 10).round().long().tolist() == [[0, 1, 2, 3]] * 5
    assert tracks.logits[:, 0].tolist() == [0, 1, 2, 3]
    assert tracks.order[1].tolist() == [3, 2, 1, 0]
    assert tracks.masks(4, torch.tensor([1])).shape == (1, 3, 3)


def test_a_thing_hidden_for_a_frame_is_found_again_by_what_it_looked_like_before() -> None:
    associator, things = Associator(), torch.eye(4)
    associator(things)
    associator(things)
    hidden = things.clone()
    hidden[1] = -things[1]
    associator(hidden)
    assert associator(things[[3, 1, 0, 2]]).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("prompt", [False, True])
def test_a_clip_trains_and_its_track_loss_is_there_without_a_prompt(prompt: bool) -> None:
    torch.manual_seed(0)
    model = Glee(CONFIG).train()
    losses = model(clips((2, 1), prompt=prompt), Draws())
    total = torch.stack([loss.total for loss in losses.values()]).sum()
    total.backward()
    assert total.isfinite()
    assert (losses["track_loss"].total.item() > 0) is not prompt
    assert losses["track_loss"].per == ("objects" if prompt else "tracked_objects")
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_window_changes_nothing_and_each_thing_keeps_its_number() -> None:
    torch.manual_seed(0)
    video = clips((3,))
    found = []
    for window in (1, 2, 10):
        torch.manual_seed(2)
        found.append(Glee(CONFIG.replace(video_window=window, tracks=5)).eval().predict(video))
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            torch.testing.assert_close(first.boxes_xyxy, second.boxes_xyxy, rtol=1e-4, atol=1e-3)
            assert first.names == second.names
    assert [frame.frame for frame in found[0]] == [0, 1, 2]
    assert all(frame.track_ids.tolist() == [0, 1, 2, 3, 4] for frame in found[0])
    assert all(torch.equal(frame.scores, found[0][0].scores) for frame in found[0])
    assert len(found[0][0].masks) == 5
    assert found[0][0].masks[0]["size"] == [96, 144]


def test_boxes_are_where_masks_are_unless_the_published_way_is_asked() -> None:
    torch.manual_seed(0)
    video = clips((1,))
    video = dataclasses.replace(video, image_sizes=((48, 96),))  # a quarter of the padded height is padding
    found = {}
    for published in (True, False):
        torch.manual_seed(2)
        (frame,) = Glee(CONFIG.replace(padded_video_boxes=published)).eval().predict(video)
        found[published] = frame.boxes_xyxy
    scale = torch.tensor([1.0, 64 / 48, 1.0, 64 / 48])
    torch.testing.assert_close(found[False], found[True] * scale)


def test_boxes_in_grey_squares_are_where_masks_are_whatever_is_asked() -> None:
    """The published code takes fractions of Pro's square for fractions of the frame, which is never repeated."""
    square = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    square[:, :, :48] = 100
    video = dataclasses.replace(clips((1,)), images=square, image_sizes=((96, 96),), original_sizes=((48, 96),))
    found = []
    for squared, published in ((True, True), (True, False), (False, True)):
        torch.manual_seed(2)
        model = Glee(CONFIG.replace(padded_video_boxes=published)).eval()
        found.append(model.predict(dataclasses.replace(video, squared=squared))[0].boxes_xyxy)
    torch.testing.assert_close(found[0], found[1])
    fractions = found[2] / torch.tensor([96, 48, 96, 48])
    torch.testing.assert_close(
        found[0], (fractions * torch.tensor([1, 2, 1, 2])).clamp(0, 1) * torch.tensor([96, 48, 96, 48])
    )


def test_tao_has_one_class_a_track_and_leaves_out_frames_that_do_not_show_it() -> None:
    torch.manual_seed(0)
    video = dataclasses.replace(clips((2,)), task="tao_video")
    frames = Glee(CONFIG.replace(tao_tracks=6)).eval().predict(video)
    label_of: dict[int, int] = {}
    for frame in frames:
        assert (frame.scores[:-1] >= frame.scores[1:]).all()
        for track, label in zip(frame.track_ids.tolist(), frame.labels.tolist(), strict=True):
            assert label_of.setdefault(track, label) == label
    assert len(label_of) <= 6


def test_videos_of_one_batch_are_answered_one_by_one() -> None:
    torch.manual_seed(0)
    model = Glee(CONFIG.replace(tracks=4)).eval()
    both = model.predict(clips((2, 1)))
    (*first, second) = both
    alone = model.predict(clips((2,)))
    assert [len(frame.track_ids) for frame in both] == [4, 4, 4]
    for one, other in zip(first, alone, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    assert second.frame == 0


def test_two_videos_at_once_are_refused() -> None:
    with pytest.raises(ShapeError, match="one video at a time"):
        Glee(CONFIG).eval().track(clips((2, 1)))
