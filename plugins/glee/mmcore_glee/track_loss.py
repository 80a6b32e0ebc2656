"""Contrastive loss between the tracks of consecutive frames (IDOL, Wu et al. 2022, as GLEE configures it).

For each frame but a clip's first, every object that was matched is compared with what the frame before it matched and
with queries drawn at random there, by inner products of track embeddings. A frame's term is

    log(1 + sum over pairs of the same thing and pairs of different ones of exp(different - same))

which is the logarithm of one plus a product of two sums, so that no pair of pairs is ever formed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from mmcore.losses import Matches
from mmcore.losses.jagged import to_device
from torch import Tensor

from mmcore_glee.batch import GleeBatch

NEGATIVES = 20
"""Queries drawn in each frame that stand for other things, those that were matched left out."""
NOTHING = -1e6
"""Logit of a pair that does not count; small enough to vanish, finite so that its gradient exists."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """Embeddings of the frames, padded to one number of rows."""

    embed: Float[Tensor, "frames rows dim"]
    ids: Int[Tensor, "frames rows"]
    """Identity of each row; `OTHER` for queries drawn at random, `ABSENT` for padding."""


OTHER, ABSENT = -2, -3


def track_loss(
    embed: Float[Tensor, "frames queries dim"],
    matches: Matches,
    negatives: Int[Tensor, "frames drawn"],
    batch: GleeBatch,
) -> Float[Tensor, ""]:
    """Sum of the terms of all frames but the first of each clip.

    Args:
        embed: of the last layer's queries.
        matches: of the last layer, one output set.
        negatives: queries drawn in each frame; frames behind them have no part.
        batch: with `track_ids` and `num_frames`.
    """
    assert batch.track_ids is not None
    assert batch.num_frames is not None
    frames = len(negatives)
    pairs, queries = matches.pairs, matches.queries[0]
    ids = torch.full((len(embed), pairs.width), ABSENT, device=embed.device)
    ids[pairs.images, pairs.slots] = batch.track_ids[matches.objects[0]]
    matched = Tracked(pairs.pad(embed[pairs.images, queries][None])[0], ids)
    taken = torch.zeros(embed.shape[:2], dtype=torch.bool, device=embed.device)
    taken[pairs.images, queries] = True
    matched, embed = Tracked(matched.embed[:frames], matched.ids[:frames]), embed[:frames]
    others = torch.where(taken[:frames].gather(1, negatives), ABSENT, OTHER)
    drawn = embed.gather(1, negatives[..., None].expand(-1, -1, embed.shape[2]))
    reference = Tracked(torch.cat([matched.embed, drawn], dim=1), torch.cat([matched.ids, others], dim=1))
    firsts = _firsts(batch.num_frames)
    later = to_device([i for i in range(len(embed)) if i not in firsts], embed.device)
    return contrast(
        Tracked(reference.embed[later - 1], reference.ids[later - 1]), Tracked(matched.embed[later], matched.ids[later])
    )


def contrast(reference: Tracked, key: Tracked) -> Float[Tensor, ""]:
    """The terms of all pairs of frames, summed; a frame without objects has none."""
    logits = torch.einsum("fnd,fkd->fnk", reference.embed.float(), key.embed.float())
    same: Bool[Tensor, "frames rows keys"] = reference.ids[:, :, None] == key.ids[:, None, :]
    real = (reference.ids != ABSENT)[:, :, None] & (key.ids != ABSENT)[:, None, :]
    different = logits.masked_fill(~real | same, NOTHING).flatten(1).logsumexp(1)
    alike = (-logits).masked_fill(~real | ~same, NOTHING).flatten(1).logsumexp(1)
    terms = torch.nn.functional.softplus(different + alike)
    return (terms * (key.ids != ABSENT).any(1)).sum()


def tracked_objects(num_objects: tuple[int, ...], num_frames: tuple[int, ...]) -> int:
    """What the loss is divided by: objects in all frames but the first of each clip."""
    firsts = _firsts(num_frames)
    return sum(count for i, count in enumerate(num_objects) if i not in firsts)


def counted_share(batch: GleeBatch, clips: int | None) -> float:
    """What brings a sum over the first clips, divided by the objects of all clips, to the objects of these clips."""
    assert batch.num_frames is not None
    if clips is None or clips >= len(batch.num_frames):
        return 1.0
    frames = sum(batch.num_frames[:clips])
    counted = tracked_objects(batch.num_objects[:frames], batch.num_frames[:clips])
    return tracked_objects(batch.num_objects, batch.num_frames) / max(counted, 1)


def _firsts(num_frames: tuple[int, ...]) -> set[int]:
    """Positions of the clips' first frames."""
    starts, position = set(), 0
    for frames in num_frames:
        starts.add(position)
        position += frames
    return starts
