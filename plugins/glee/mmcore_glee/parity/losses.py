"""Golden cases of the matcher and the criterion alone.

The cases give whole mask maps. Our criterion takes embeddings and features, whose product the maps are: with the maps
as features and unit vectors as embeddings the same code runs, and the gradient of the features is that of the maps.
"""

import torch
from mmcore.losses import Jagged, MaskInputs, MatchCosts, Matches, box_costs, class_costs, mask_costs, match_queries
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LOSS_WEIGHTS
from mmcore_glee.criterion import Criterion
from mmcore_glee.outputs import DecoderOutputs, Draws, QueryOutputs
from mmcore_glee.track_loss import ABSENT, OTHER, Tracked, contrast


class StoredPoints(Draws):
    """Replays the points of a case with one output set."""

    def __init__(self, oversampled: Tensor, random: Tensor) -> None:
        self.stored = (oversampled[None], random[None])

    def loss_points(self, *_: object) -> tuple[Tensor, Tensor]:
        """The stored candidates and uniform points."""
        return self.stored


def check_matcher(case: Case, report: Report) -> None:
    """Cost matrices and assignments, with masks and with class and box only."""
    given = case.tensors
    batch = _batch(case)
    logits, boxes, maps = (given[f"in.pred_{name}"] for name in ("logits", "boxes", "masks"))
    points = torch.cat([given[f"draw.points.{image}"] for image in range(len(maps))])[None]
    objects = Jagged(batch.num_objects, logits.device)
    label = class_costs(logits[None], batch.labels, objects)
    distance, giou = box_costs(boxes[None], batch.boxes_cxcywh, objects)
    assert batch.masks is not None
    masks = MaskInputs(_unit_embed(maps), maps, batch.masks, points)
    cross_entropy, dice = mask_costs(masks, objects)
    weights = Criterion().match_costs
    without = weights.label * label + weights.box * distance + weights.giou * giou
    whole = without + weights.mask * cross_entropy + weights.dice * dice
    for image, (rows, all_rows) in enumerate(
        zip(without[0].split(batch.num_objects), whole[0].split(batch.num_objects), strict=True)
    ):
        limits = _limits(case)
        report.close(f"out.cost_all.{image}", all_rows.T, given[f"out.cost_all.{image}"], **limits)
        report.close(f"out.cost_class_box.{image}", rows.T, given[f"out.cost_class_box.{image}"], **limits)
    target = (logits[None], boxes[None], batch.labels, batch.boxes_cxcywh, batch.num_objects)
    report.equal("matching_all", _as_lists(match_queries(*target, weights, masks), batch), case.data["matching_all"])
    class_box = MatchCosts(label=weights.label, box=weights.box, giou=weights.giou)
    report.equal(
        "matching_class_box", _as_lists(match_queries(*target, class_box), batch), case.data["matching_class_box"]
    )


def check_losses(case: Case, report: Report) -> None:
    """Each loss for given pairs, and the gradients of their unweighted sum."""
    given = case.tensors
    batch = _batch(case)
    leaves = {
        name: given[f"in.pred_{name}"].clone().requires_grad_() for name in ("logits", "scores", "boxes", "masks")
    }
    outputs = DecoderOutputs(
        sets={
            "final": QueryOutputs(
                leaves["logits"], leaves["boxes"], _unit_embed(leaves["masks"])[0], confidence=leaves["scores"]
            )
        },
        mask_features=leaves["masks"],
    )
    oversampled, random = given["draw.oversampled"], given["draw.random"]
    num_points = oversampled.shape[1] // 3
    criterion = Criterion(weights=dict.fromkeys(LOSS_WEIGHTS, 1.0), num_points=num_points)
    losses = criterion.losses(outputs, batch, StoredPoints(oversampled, random), _given_pairs(case, batch))
    counts = {"objects": case.data["num_boxes"], "batches": 1.0}
    values = {name: loss.total / max(counts[loss.per], 1) for name, loss in losses.items()}
    for name, expected in case.data["losses_unweighted"].items():
        report.close(name, values[name], expected, **_limits(case))
    for name in set(values) - set(case.data["losses_unweighted"]):
        report.equal(f"{name} (none stored)", values[name], 0.0)
    torch.stack(list(values.values())).sum().backward()
    for name, leaf in leaves.items():
        report.close(f"grad.pred_{name}", leaf.grad, given[f"grad.pred_{name}"], **_limits(case))


def check_track_loss(case: Case, report: Report) -> None:
    """The contrast of given embeddings, and its gradients."""
    given, frames, videos = case.tensors, case.data["frames"], case.data["videos"]
    embeds = {
        f"{i}.{kind}_embed": given[f"in.{i}.{kind}_embed"].clone().requires_grad_()
        for i in range(frames * videos)
        for kind in ("matched", "negative")
    }
    ids = [given[f"in.{i}.matched_id"] for i in range(frames * videos)]
    later = [i for i in range(frames * videos) if i % frames]
    references = [torch.cat([embeds[f"{i - 1}.matched_embed"], embeds[f"{i - 1}.negative_embed"]]) for i in later]
    identities = [torch.cat([ids[i - 1], torch.full((len(embeds[f"{i - 1}.negative_embed"]),), OTHER)]) for i in later]
    total = contrast(
        _tracked(references, identities),
        _tracked([embeds[f"{i}.matched_embed"] for i in later], [ids[i] for i in later]),
    )
    loss = total / max(sum(len(ids[i]) for i in later), 1)
    report.close("track_loss", loss, case.data["track_loss_unweighted"], **_limits(case))
    loss.backward()
    for name, embed in embeds.items():
        name = name.removesuffix("_embed")
        if f"grad.{name}" in given:
            gradient = torch.zeros_like(embed) if embed.grad is None else embed.grad
            report.close(f"grad.{name}", gradient, given[f"grad.{name}"], **_limits(case))


def _tracked(embeds: list[Tensor], ids: list[Tensor]) -> Tracked:
    padded = torch.nn.utils.rnn.pad_sequence
    return Tracked(padded(embeds, batch_first=True), padded(ids, batch_first=True, padding_value=ABSENT))


def _batch(case: Case) -> GleeBatch:
    """The targets of a case as a batch; what the criterion does not read is empty."""
    given = case.tensors
    num_images = len(given["in.pred_logits"])
    labels = [given[f"in.{image}.labels"] for image in range(num_images)]
    masks = torch.cat([given[f"in.{image}.masks"] for image in range(num_images)])
    height, width = masks.shape[-2:]
    scores = "in.pred_scores" in given
    return GleeBatch(
        source=case.name,
        draws=(),
        normalisers={},
        images=torch.zeros(num_images, 3, height, width, dtype=torch.uint8),
        image_sizes=((height, width),) * num_images,
        original_sizes=((height, width),) * num_images,
        image_ids=tuple(range(num_images)),
        num_objects=tuple(map(len, labels)),
        labels=torch.cat(labels),
        boxes_cxcywh=torch.cat([given[f"in.{image}.boxes"] for image in range(num_images)]),
        masks=masks,
        task="coco",
        names=("",) * given["in.pred_logits"].shape[-1],
        input_ids=torch.zeros(0, 0, dtype=torch.int64),
        attention_mask=torch.zeros(0, 0, dtype=torch.int64),
        prompt_masks=torch.ones(num_images, height, width, dtype=torch.uint8) if scores else None,
    )


def _given_pairs(case: Case, batch: GleeBatch) -> Matches:
    given = case.tensors
    starts = Jagged(batch.num_objects, torch.device("cpu")).starts
    queries = [given[f"in.{image}.src"] for image in range(len(starts))]
    objects = [given[f"in.{image}.tgt"] + start for image, start in enumerate(starts)]
    pairs = Jagged([len(rows) for rows in queries], torch.device("cpu"))
    return Matches(pairs, torch.cat(queries)[None], torch.cat(objects)[None])


def _unit_embed(maps: Tensor) -> Tensor:
    """(1, batch, queries, queries): query i reads map i."""
    return torch.eye(maps.shape[1]).expand(1, len(maps), -1, -1)


def _as_lists(matches: Matches, batch: GleeBatch) -> list[list[list[int]]]:
    """Queries and objects of each image, objects counted from 0 in each."""
    counts = matches.pairs.counts
    starts = Jagged(batch.num_objects, torch.device("cpu")).starts
    pairs = zip(matches.queries[0].split(counts), matches.objects[0].split(counts), starts, strict=True)
    return [[queries.tolist(), (objects - start).tolist()] for queries, objects, start in pairs]


def _limits(case: Case) -> dict[str, float]:
    tolerance = case.data["tolerance"]
    return {"absolute": tolerance["outputs_absolute"], "relative": tolerance["relative"]}


KINDS: dict[str, Check] = {"matcher": check_matcher, "losses": check_losses, "track_loss": check_track_loss}
