"""Clips of one task to one `GleeBatch`: their frames follow each other as images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmcore.contract.values import ClipSample, Sample

from mmcore_glee.batch import GleeBatch, PromptMode
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.prompts import hidden_boxes, point_prompts
from mmcore_glee.data.samples import keep_objects
from mmcore_glee.track_loss import tracked_objects

USER_PROBABILITY = 0.1
"""Share of the clips of some tasks that are prompted as a user would, not by the file's mask."""
BOX_SHARE = 0.05
"""Share of these that are boxes; the rest are points."""


@dataclass(frozen=True)
class ClipCollate(Collate):
    """Makes the batches of one source of clips; the arguments are those of `Collate`."""

    def __call__(self, samples: Sequence[ClipSample], seed: int) -> GleeBatch:  # type: ignore[override]
        """One batch of clips, in their order."""
        rng = np.random.default_rng(seed)
        frames: Sequence[Sample] = [clip.frame(number) for clip in samples for number in range(len(clip))]
        num_frames = tuple(len(clip) for clip in samples)
        names: tuple[str, ...] = ()
        if self.task.words != "expression":
            frames, names = self._words(frames, rng)
        mode: PromptMode | None = None
        hidden = None
        if self.training and self.task.clip_prompts != "never" and rng.random() < self.prompt_share:
            whole = frames
            frames, mode = one_thing_each(frames, num_frames, rng, as_user=self.task.clip_prompts == "user")
            hidden = None if mode is None else hidden_boxes(whole, frames)
        batch = self._batch(frames, names, None, rng)
        ids = [frame.track_ids for frame in frames if frame.track_ids is not None]
        batch.track_ids = torch.cat(ids) if len(ids) == len(frames) else None
        batch.num_frames = num_frames
        batch.frame_numbers = tuple(number for clip in samples for number in clip.frame_numbers)
        batch.normalisers |= {
            "clips": float(len(samples)),
            "tracked_objects": float(tracked_objects(batch.num_objects, num_frames)),
        }
        return batch if mode is None else replace(_prompted(batch, mode, rng), hidden=hidden)


def one_thing_each(
    frames: Sequence[Sample], num_frames: Sequence[int], rng: np.random.Generator, *, as_user: bool
) -> tuple[Sequence[Sample], PromptMode | None]:
    """One random thing of each clip's first frame, in all its frames; nothing changes when a first frame has none."""
    starts = [sum(num_frames[:i]) for i in range(len(num_frames))]
    if any(not len(frames[start].labels) or frames[start].masks is None for start in starts):
        return frames, None
    kept: list[Sample] = []
    for start, count in zip(starts, num_frames, strict=True):
        ids = frames[start].track_ids
        assert ids is not None
        wanted = ids[int(rng.integers(len(ids)))]
        for frame in frames[start : start + count]:
            assert frame.track_ids is not None
            kept.append(keep_objects(frame, frame.track_ids == wanted))
    mode: PromptMode = "mask"
    if as_user and rng.random() < USER_PROBABILITY:
        mode = "box" if rng.random() < BOX_SHARE else "point"
    return kept, mode


def _prompted(batch: GleeBatch, mode: PromptMode, rng: np.random.Generator) -> GleeBatch:
    """The masks of the first frames as prompts."""
    assert batch.masks is not None
    rows = [sum(batch.num_objects[:first]) for first in batch.first_frames.tolist()]
    masks = batch.masks[rows]
    return replace(batch, prompt_masks=point_prompts(masks, rng) if mode == "point" else masks, prompt_mode=mode)
