"""Tracks from the frames of a video: queries that look alike are the same thing (MinVIS, Huang et al. 2022).

    windows of frames -> the model -> queries of every frame
      frame 0 defines the tracks; each later frame's queries are assigned to them by the cosine of their embeddings with
      the mean of a track's last three
    -> mean class logits, one box and one mask embedding a frame and track

Assignment is one step after another by nature; everything else is done for all frames at once.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from mmcore.contract.values import Prediction
from mmcore.geometry.boxes import cxcywh_to_xyxy
from mmcore.geometry.masks import Rle, encode_all
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import nms

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import GleeConfig
from mmcore_glee.mask_store import MaskStore
from mmcore_glee.outputs import DecoderOutputs
from mmcore_glee.predict import enlarged_masks, select, shown_size

TAO_TASKS = frozenset({"tao_video"})
"""Tasks whose results are those of TAO's protocol."""
MEMORY = 3
"""Aligned embeddings of a track that the next frame is compared with."""
SMALLEST_MASK = 5
"""TAO: a frame in which a mask has no more pixels than this, at the features' resolution, does not show the track."""
OVERLAP = 0.5
"""TAO: intersection over union above which the weaker of two boxes of a frame is dropped."""


class Associator:
    """Assigns the queries of one frame after the other to tracks."""

    def __init__(self) -> None:
        self.recent: deque[Float[Tensor, "tracks dim"]] = deque(maxlen=MEMORY)

    def __call__(self, embed: Float[Tensor, "queries dim"]) -> Int[Tensor, " tracks"]:
        """Which query of this frame each track is; the first frame's queries are the tracks.

        Args:
            embed: on the CPU.
        """
        if not self.recent:
            order = torch.arange(len(embed))
        else:
            known = torch.stack(tuple(self.recent)).mean(0)
            known, new = known / known.norm(dim=1, keepdim=True), embed / embed.norm(dim=1, keepdim=True)
            order = torch.from_numpy(linear_sum_assignment((1 - new @ known.T).T.numpy())[1])
        self.recent.append(embed[order])
        return order


@dataclass(frozen=True, slots=True)
class Tracks:
    """Every track of a video; row q of any frame is the same thing."""

    logits: Float[Tensor, "tracks classes"]
    """Mean over the frames."""
    boxes_cxcywh: Float[Tensor, "frames tracks 4"]
    """Fractions of the padded width and height."""
    mask_embed: Float[Tensor, "frames tracks mask_dim"]
    mask_features: MaskStore
    """Of each frame."""
    order: Int[Tensor, "frames tracks"]
    """Query of each frame that each track is."""

    def masks(self, frame: int, tracks: Int[Tensor, " some"]) -> Float[Tensor, "some h w"]:
        """Mask logits of some tracks in a frame, at the features' resolution."""
        return torch.einsum("qc,chw->qhw", self.mask_embed[frame, tracks], self.mask_features[frame])


def associate(windows: Iterator[DecoderOutputs]) -> Tracks:
    """Follow what the windows of a video show.

    Args:
        windows: outputs of consecutive frames.
    """
    associator = Associator()
    orders: list[Tensor] = []
    boxes: list[Tensor] = []
    embeds: list[Tensor] = []
    features = MaskStore()
    total: Tensor | None = None
    for outputs in windows:
        final = outputs.sets["final"]
        assert outputs.track_embed is not None
        assert final.mask_embed is not None
        rows = [associator(embed) for embed in outputs.track_embed.float().cpu()]
        order = torch.stack(rows)
        for logits, row in zip(final.logits.float().cpu(), rows, strict=True):
            total = logits[row] if total is None else total + logits[row]
        orders.append(order)
        boxes.append(_taken(final.boxes_cxcywh, order))
        embeds.append(_taken(final.mask_embed, order))
        features.extend(outputs.mask_features)
    assert total is not None
    order = torch.cat(orders)
    return Tracks(total / len(order), torch.cat(boxes), torch.cat(embeds), features, order)


def windows_of(batch: GleeBatch, size: int) -> Iterator[GleeBatch]:
    """The frames of a video in batches of at most `size`; a prompt is shown with the first frame of the video only."""
    for start in range(0, len(batch.images), size):
        yield _frames(batch, slice(start, start + size))


def videos_of(batch: GleeBatch) -> Iterator[GleeBatch]:
    """Each video of a batch for itself, without objects."""
    assert batch.num_frames is not None
    start = 0
    for clip, count in enumerate(batch.num_frames):
        alone = _frames(batch, slice(start, start + count))
        prompts = batch.prompt_masks
        yield alone if prompts is None else replace(alone, prompt_masks=prompts[clip : clip + 1])
        start += count


def _frames(batch: GleeBatch, frames: slice) -> GleeBatch:
    """Some frames of one video, as a video."""
    return replace(
        batch,
        images=batch.images[frames],
        image_sizes=batch.image_sizes[frames],
        original_sizes=batch.original_sizes[frames],
        image_ids=batch.image_ids[frames],
        num_objects=batch.num_objects[frames],
        input_ids=batch.input_ids if batch.expressions is None else batch.input_ids[frames],
        attention_mask=batch.attention_mask if batch.expressions is None else batch.attention_mask[frames],
        expressions=None if batch.expressions is None else batch.expressions[frames],
        num_frames=(len(batch.images[frames]),),
        frame_numbers=None if batch.frame_numbers is None else batch.frame_numbers[frames],
    )


def video_predictions(tracks: Tracks, batch: GleeBatch, config: GleeConfig) -> list[Prediction]:
    """One prediction per frame; the same thing has the same track id in all of them.

    A result is a pair of track and class among the best, scored by its mean class probability alone.
    """
    scores, rows, labels = select(tracks.logits, num_tracks(batch, config))
    names = batch.names if batch.expressions is None else (batch.expressions[0],)
    distinct, inverse = rows.unique(return_inverse=True)
    found = []
    for frame in range(len(batch.images)):
        masks = _masks(tracks, frame, distinct, batch)
        found.append(
            Prediction(
                image_id=batch.image_ids[frame],
                size=batch.original_sizes[frame],
                boxes_xyxy=_boxes(tracks, frame, rows, batch, config),
                scores=scores,
                labels=labels,
                names=tuple(names[label] for label in labels.tolist()),
                masks=tuple(masks[row] for row in inverse.tolist()),
                track_ids=torch.arange(len(rows)),
                frame=_number(batch, frame),
            )
        )
    return found


def num_tracks(batch: GleeBatch, config: GleeConfig) -> int:
    """How many results a video has at most."""
    return 1 if batch.expressions is not None or batch.prompt_masks is not None else config.tracks


def tao_predictions(tracks: Tracks, batch: GleeBatch, config: GleeConfig) -> list[Prediction]:
    """One prediction per frame by the published protocol of TAO: each track has one class, and frames that do not show
    it, or show it where a better one is, leave it out.

    As published, the boxes that suppress one another are read as centre and size though they are corner and size.
    """
    scores, rows = tracks.logits.sigmoid().amax(1).topk(min(config.tao_tracks, len(tracks.logits)))
    labels = tracks.logits[rows].argmax(1)
    found = []
    for frame in range(len(batch.images)):
        seen = (tracks.masks(frame, rows) > 0).flatten(1).sum(1) > SMALLEST_MASK
        boxes = _boxes(tracks, frame, rows, batch, config)
        corner_and_size = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
        shown = seen.nonzero()[:, 0]
        kept = shown[nms(cxcywh_to_xyxy(corner_and_size[shown]), scores[shown], OVERLAP)]
        found.append(
            Prediction(
                image_id=batch.image_ids[frame],
                size=batch.original_sizes[frame],
                boxes_xyxy=boxes[kept],
                scores=scores[kept],
                labels=labels[kept],
                names=tuple(batch.names[label] for label in labels[kept].tolist()),
                track_ids=kept,
                frame=_number(batch, frame),
            )
        )
    return found


def _taken(values: Float[Tensor, "frames queries size"], order: Int[Tensor, "frames tracks"]) -> Tensor:
    return values.float().cpu().gather(1, order[..., None].expand(-1, -1, values.shape[2]))


def _number(batch: GleeBatch, frame: int) -> int:
    return frame if batch.frame_numbers is None else batch.frame_numbers[frame]


def _boxes(
    tracks: Tracks, frame: int, rows: Tensor, batch: GleeBatch, config: GleeConfig
) -> Float[Tensor, "results 4"]:
    """Fractions of the padded frame -> pixels of the original one."""
    height, width = batch.original_sizes[frame]
    boxes = cxcywh_to_xyxy(tracks.boxes_cxcywh[frame, rows])
    limits = boxes.new_tensor([width, height, width, height])
    # Of squares the published code forgets the grey too, and then no box is near its mask: that is never repeated.
    if config.padded_video_boxes and not batch.squared:
        return boxes * limits
    padded = boxes.new_tensor([batch.images.shape[3], batch.images.shape[2]] * 2)
    shown = shown_size(batch.image_sizes[frame], (height, width), squared=batch.squared)
    boxes = boxes * padded / boxes.new_tensor([shown[1], shown[0]] * 2)
    return (boxes.clamp(0, 1) if batch.squared else boxes) * limits


def _masks(tracks: Tracks, frame: int, rows: Tensor, batch: GleeBatch) -> list[Rle]:
    padded = (batch.images.shape[-2], batch.images.shape[-1])
    original = batch.original_sizes[frame]
    shown = shown_size(batch.image_sizes[frame], original, squared=batch.squared)
    logits = tracks.masks(frame, rows)
    return [
        mask
        for enlarged in enlarged_masks(logits, padded, shown, original)
        for mask in encode_all((enlarged > 0).numpy())
    ]
