"""Predict on videos: frames in, what was followed through them out, as JSON, a strip and a video file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmcore.base.files import replace_text
from mmcore.base.terminal import tell
from mmcore.contract.model import Model
from mmcore.contract.values import Prediction
from mmcore.data.video_files import NEEDED, Frames, can_write, read_frames, write_video
from mmcore.errors import CheckpointError
from mmcore.runs.predict import Question, free_stem, shown_instead, to_json, wanted
from mmcore.runs.visual import with_prompt
from mmcore.show.draw import draw_clip, draw_prediction, select

STRIP = 12
"""Frames of the strip, spread over the whole video."""


def predict_video(
    model: Model,
    path: Path,
    question: Question,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    every: int = 1,
    most: int = 300,
) -> dict[str, Any]:
    """Follow things through one video and write `NAME.json`, `NAME.png` (a strip) and `NAME.mp4` into `folder`.

    Args:
        model: in eval mode on `device`.
        path: a video file, or a folder of frames.
        question: what to follow; `top` counts tracks.
        folder: for what is written, under a name that is still free.
        device: where the model is.
        every: take each n-th frame.
        most: frames at most.

    Returns:
        What the JSON file holds, with the paths of the files.
    Raises:
        DataError: the video cannot be read.
        UsageError: the family follows nothing through videos, or not by a visual prompt.
        CheckpointError: the folder cannot be written.
    """
    frames = read_frames(path, every=every, most=most)
    if frames.left_out:
        tell(f"{path}: the first {len(frames.images)} frames are taken, {frames.left_out} are not (--frames, --every)")
    shown = shown_instead(question, frames.images[0], model.prepare_video)
    with torch.inference_mode():
        batch = model.prepare_video(frames.images, names=question.names, prompt=question.prompt, **shown)
        predictions = [wanted(one, question) for one in model.predict(batch.to(device))]
    predictions[0] = with_prompt(predictions[0], shown)
    answers = _frames(frames, predictions, question)
    result = {"video": str(path), "tracks": tracks(predictions, question), "frames": answers}
    pictures = [Image.fromarray(image) for image in frames.images]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = free_stem(folder, path.stem)
        shown = sorted({round(i * (len(pictures) - 1) / max(STRIP - 1, 1)) for i in range(STRIP)})
        strip = draw_clip([pictures[i] for i in shown], [predictions[i] for i in shown], question.threshold)
        strip.save(folder / f"{stem}.png")
        written = {"picture": str(folder / f"{stem}.png")}
        if can_write():
            pairs = zip(pictures, predictions, strict=True)
            drawn = [np.asarray(draw_prediction(p, one, question.threshold, top=question.top)) for p, one in pairs]
            height, width = (min(image.shape[axis] for image in drawn) for axis in (0, 1))
            write_video(folder / f"{stem}.mp4", [image[:height, :width] for image in drawn], frames.rate)
            written["film"] = str(folder / f"{stem}.mp4")
        else:
            tell(f"no video file is written: it needs PyAV\n  do:    {NEEDED}")
        replace_text(folder / f"{stem}.json", json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder}: {error.strerror}", do="choose another --out") from None
    return {**result, **written, "json": str(folder / f"{stem}.json")}


def tracks(predictions: list[Prediction], question: Question) -> list[dict[str, Any]]:
    """Every track that is kept in some frame, best first: its name, best score and in how many frames it is seen."""
    found: dict[int, dict[str, Any]] = {}
    for prediction in predictions:
        assert prediction.track_ids is not None
        for row in select(prediction, question.threshold, question.top):
            entry = found.setdefault(int(prediction.track_ids[row]), {"score": 0.0, "frames": 0})
            if prediction.names is not None:
                entry["name"] = prediction.names[row]
            if prediction.scores is not None:
                entry["score"] = max(entry["score"], round(float(prediction.scores[row]), 5))
            entry["frames"] += 1
    listed = [{"track_id": number, **entry} for number, entry in found.items()]
    return sorted(listed, key=lambda one: -one["score"])


def _frames(frames: Frames, predictions: list[Prediction], question: Question) -> list[dict[str, Any]]:
    """The answer to each frame, numbered as in the video."""
    answers = []
    for number, prediction in zip(frames.numbers, predictions, strict=True):
        answer = to_json(prediction, question)
        answers.append({**answer, "frame": number})
    return answers
