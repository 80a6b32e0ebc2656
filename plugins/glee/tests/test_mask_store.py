"""Mask features of long videos: what lies in a file is what was put in, and answers do not change."""

import tempfile

import pytest
import torch
from mmcore.data.demo.clips import draw_clip
from mmcore.data.images import Held, read_image
from mmcore_glee import mask_store, tracking
from mmcore_glee.config import TINY
from mmcore_glee.mask_store import MaskStore
from mmcore_glee.model import Glee

FRAME = 4 * 3 * 5 * 4
"""Bytes of one frame here."""


@pytest.mark.parametrize("in_memory", [0, FRAME, 3 * FRAME, 99 * FRAME])
def test_frames_come_back_bit_by_bit_wherever_they_lie(in_memory: int) -> None:
    store, frames = MaskStore(in_memory), torch.randn(7, 3, 5, 4)
    for window in frames.split(3):
        store.extend(window)
    assert len(store) == 7
    for number in (6, 0, 3, 3):
        assert torch.equal(store[number], frames[number])
    assert sum(isinstance(kept, torch.Tensor) for kept in store._frames) == min(7, in_memory // FRAME)


def test_a_full_disk_is_told_and_frames_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(prefix: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    store, frames = MaskStore(0), torch.randn(3, 3, 5, 4)
    store.extend(frames)
    assert all(torch.equal(store[number], frames[number]) for number in range(3))
    assert capsys.readouterr().err.count("No space left") == 1


def test_a_video_is_answered_alike_from_memory_and_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Glee(TINY.replace(num_queries=12, tracks=6, video_window=2)).eval()
    model.transform = {"test_min_size": 64, "test_max_size": 96}
    frames = [read_image(Held(content, "frame")) for content in draw_clip(0, 3, 5).frames]
    batch = model.prepare_video(frames, names=("kite", "clock"))
    answers = []
    for room in (mask_store.IN_MEMORY, 0):
        monkeypatch.setattr(tracking, "MaskStore", lambda room=room: MaskStore(room))
        answers.append(model.predict(batch))
    for here, there in zip(*answers, strict=True):
        assert here.masks == there.masks
        assert torch.equal(here.scores, there.scores)
