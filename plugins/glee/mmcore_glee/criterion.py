"""Which losses, with which weights, on which outputs (MaskDINO's criterion as GLEE configures it).

    output set          ce  mask dice  bbox giou  conf
    final, 0 ... L-1     x    x    x     x    x     x
    interm               x    x    x     x    x     0
    dn, dn_0 ... L-1     x    (seg)      x    x

Every set is matched on its own; denoising sets are matched by construction. Losses are named `loss_<kind>` and the
set's suffix: none for the final layer, `_0` for the proposals before the first layer, `_interm`, `_dn`, `_dn_0`...
All sets are computed side by side in one batch; masks exist for matched queries only, at low resolution.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from mmcore.contract.values import Loss, Losses
from mmcore.errors import ShapeError
from mmcore.losses import (
    Jagged,
    MaskInputs,
    MatchCosts,
    Matches,
    box_losses,
    dice_loss,
    match_queries,
    point_bce,
    sample_masks,
    sample_points,
    sparse_focal_sum,
    uncertain_points,
)
from mmcore.losses.jagged import to_device
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LOSS_WEIGHTS, MATCH_COSTS, DenoisingLosses, GleeConfig
from mmcore_glee.outputs import DecoderOutputs, Draws, QueryOutputs

NO_BOX_LOSS = frozenset({"grit"})
"""Tasks whose boxes are too rough to learn from: matched with, but box and giou losses count nothing."""

_MAX_ELEMENTS = 1 << 25
"""Largest block of point logits and masks that is held at once while points are chosen, numbers."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Losses of one micro-batch; each is a weighted sum with the name of its normaliser."""

    weights: Mapping[str, float] = field(default_factory=lambda: dict(LOSS_WEIGHTS))
    """Factor of each loss by its name without the set's suffix."""
    match_costs: MatchCosts = field(default_factory=lambda: MatchCosts(**MATCH_COSTS))
    num_points: int = 12544
    """Points at which masks are compared, in the matching and in the losses."""
    oversample_ratio: float = 3.0
    """Candidates per point among which the uncertain ones are chosen."""
    importance_ratio: float = 0.75
    """Share of the points that are uncertain ones; the rest is uniform."""
    deep_supervision: bool = True
    """Whether sets between the proposals and the last layer have losses."""
    box_losses: bool = True
    """Whether matched queries have box losses."""
    denoising: DenoisingLosses = "standard"
    """What denoising queries learn; without objects each of it is zero."""

    def __call__(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> Losses:
        """Match every output set with the objects of the batch and compare.

        Raises:
            ShapeError: object counts or sets do not fit together.
        """
        outputs = self.counted(outputs)
        return self.losses(outputs, batch, draws, self.match(outputs, batch, draws))

    def counted(self, outputs: DecoderOutputs) -> DecoderOutputs:
        """The output sets that have losses."""
        if self.deep_supervision:
            return outputs
        kept = {name: queries for name, queries in outputs.sets.items() if name in ("final", "interm")}
        noised = {name: queries for name, queries in outputs.denoising.items() if name == "final"}
        return replace(outputs, sets=kept, denoising=noised)

    @torch.no_grad()
    def match(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> Matches:
        """Pairs of every output set, in the order of `outputs.sets`."""
        sets = list(outputs.sets.values())
        masks = None
        if batch.masks is not None:
            device = outputs.mask_features.device
            points = draws.match_points(tuple(outputs.sets), len(batch.num_objects), self.num_points, device)
            masks = MaskInputs(_stack(sets, "mask_embed"), outputs.mask_features, batch.masks, points)
        return match_queries(
            _stack(sets, "logits"),
            _stack(sets, "boxes_cxcywh"),
            batch.labels,
            batch.boxes_cxcywh,
            batch.num_objects,
            self.match_costs,
            masks,
        )

    def losses(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws, matches: Matches) -> Losses:
        """The losses for given pairs; `matches` has one row per output set."""
        by_name = self._class_and_box(outputs.sets, batch, matches, "")
        if not self.box_losses:
            by_name = {key: total for key, total in by_name.items() if key[0] == "ce"}
        by_name |= self._masks(outputs.sets, outputs.mask_features, batch, draws, matches)
        by_name |= self._confidence(outputs.sets, batch, matches)
        by_name |= self._denoising(outputs, batch, draws)
        return self._report(by_name, batch.task)

    def _denoising(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> dict[tuple[str, str], Tensor]:
        """Losses of the noised objects, whose pairs are known; each is zero where there are none."""
        if self.denoising == "no":
            return {}
        with_masks = self.denoising == "seg"
        if not outputs.denoising_groups or not outputs.denoising:
            nothing = outputs.mask_features.new_zeros(())
            # As published, the first prediction of noised objects counts only beside proposals of the encoder.
            left_out = {"interm"} if "interm" in outputs.sets else {"0"}
            suffixes = ["_dn" + _suffix(name) for name in outputs.sets if name not in left_out]
            kinds = ("ce", "bbox", "giou", *(("mask", "dice") if with_masks else ()))
            return {(kind, suffix): nothing for suffix in suffixes for kind in kinds}
        sets, groups = outputs.denoising, outputs.denoising_groups
        pairs = _denoising_matches(outputs, batch)
        by_name = self._class_and_box(sets, batch, pairs, "_dn", groups)
        if with_masks:
            by_name |= self._masks(sets, outputs.mask_features, batch, draws, pairs, "dn", groups)
        return by_name

    def _class_and_box(
        self, sets: Mapping[str, QueryOutputs], batch: GleeBatch, matches: Matches, prefix: str, groups: int = 1
    ) -> dict[tuple[str, str], Tensor]:
        logits = _stack(sets.values(), "logits").float()
        sets_index = torch.arange(len(logits), device=logits.device)[:, None]
        positives = (sets_index, matches.pairs.images, matches.queries, batch.labels[matches.objects])
        boxes = matches.take(_stack(sets.values(), "boxes_cxcywh").float()).clamp(0, 1)
        distance, giou = box_losses(boxes, batch.boxes_cxcywh[matches.objects])
        return _name(
            {
                "ce": sparse_focal_sum(logits, positives) / groups,
                "bbox": distance.sum(1) / groups,
                "giou": giou.sum(1) / groups,
            },
            sets,
            prefix,
        )

    def _masks(
        self,
        sets: Mapping[str, QueryOutputs],
        features: Float[Tensor, "batch mask_dim h w"],
        batch: GleeBatch,
        draws: Draws,
        matches: Matches,
        prefix: str = "",
        groups: int = 1,
    ) -> dict[tuple[str, str], Tensor]:
        """Cross-entropy and dice at points, for as many sets at a time as fit `_MAX_ELEMENTS`."""
        suffix, names, num_pairs = f"_{prefix}" if prefix else "", tuple(sets), matches.pairs.total
        if not batch.has_masks or num_pairs == 0:
            nothing = features.new_zeros(len(names))
            return _name({"mask": nothing, "dice": nothing}, names, suffix)
        drawn = [prefix + _suffix(name) for name in names] if prefix else names
        embed = matches.take(_stack(sets.values(), "mask_embed"))
        per_set = num_pairs * max(3 * int(self.num_points * self.oversample_ratio), features[0, 0].numel())
        step = max(1, _MAX_ELEMENTS // per_set)
        parts = [
            self._masks_of(drawn[i : i + step], embed[i : i + step], matches.objects[i : i + step], matches.pairs,
                           features, batch, draws)
            for i in range(0, len(names), step)
        ]  # fmt: skip
        cross_entropy, dice = (torch.cat(part) / groups for part in zip(*parts, strict=True))
        return _name({"mask": cross_entropy, "dice": dice}, names, suffix)

    def _masks_of(
        self,
        names: Sequence[str],
        embed: Float[Tensor, "sets pairs mask_dim"],
        objects: Tensor,
        pairs: Jagged,
        mask_features: Float[Tensor, "batch mask_dim mask_height mask_width"],
        batch: GleeBatch,
        draws: Draws,
    ) -> tuple[Float[Tensor, " sets"], Float[Tensor, " sets"]]:
        """Sums over the pairs of some sets."""
        assert batch.masks is not None
        maps = torch.einsum("sbmc,bchw->sbmhw", pairs.pad(embed), mask_features)
        maps = pairs.unpad(maps.flatten(3)).reshape(-1, *mask_features.shape[2:]).float()
        points = self._loss_points(names, maps.detach(), pairs.total, draws)
        truth = sample_masks(batch.masks, points, objects.flatten())
        logits = sample_points(maps.unsqueeze(1), points).squeeze(1)
        shape = (len(names), pairs.total)
        return point_bce(logits, truth).view(shape).sum(1), dice_loss(logits, truth).view(shape).sum(1)

    def _loss_points(
        self, names: Sequence[str], maps: Float[Tensor, "rows height width"], num_pairs: int, draws: Draws
    ) -> Float[Tensor, "rows points 2"]:
        num_uncertain = int(self.importance_ratio * self.num_points)
        num_candidates = int(self.num_points * self.oversample_ratio)
        candidates, uniform = draws.loss_points(
            names, num_pairs, num_candidates, self.num_points - num_uncertain, maps.device
        )
        return uncertain_points(maps, candidates.flatten(0, 1), uniform.flatten(0, 1), num_uncertain)

    def _confidence(
        self, sets: Mapping[str, QueryOutputs], batch: GleeBatch, matches: Matches
    ) -> dict[tuple[str, str], Tensor]:
        """Which query is the prompted object: mean over the queries, summed over the images. Not for the proposals,
        and nothing without a visual prompt."""
        outputs = list(sets.values())
        if batch.prompt_masks is None:
            return _name({"conf": outputs[0].logits.new_zeros(len(outputs))}, sets)
        scores = _stack(outputs, "confidence").float()
        sets_index = torch.arange(len(scores), device=scores.device)[:, None]
        positives = (sets_index, matches.pairs.images, matches.queries, torch.zeros_like(matches.queries))
        total = sparse_focal_sum(scores, positives) / scores.shape[2]
        counted = to_device([name != "interm" for name in sets], total.device, total.dtype)
        return _name({"conf": total * counted}, sets)

    def _report(self, by_name: Mapping[tuple[str, str], Tensor], task: str) -> Losses:
        weights = dict(self.weights)
        if task in NO_BOX_LOSS:
            weights |= {"loss_bbox": 0.0, "loss_giou": 0.0}
        losses = Losses()
        order = list(dict.fromkeys(suffix for _, suffix in by_name))
        for kind, suffix in sorted(by_name, key=lambda key: order.index(key[1])):
            per = "batches" if kind == "conf" else "objects"
            losses[f"loss_{kind}{suffix}"] = Loss(weights[f"loss_{kind}"] * by_name[kind, suffix], per)
        return losses


def build_criterion(config: GleeConfig) -> Criterion:
    """The losses with this model's weights and number of points."""
    return Criterion(
        weights=config.loss_weights,
        num_points=config.mask_points,
        oversample_ratio=config.oversample_ratio,
        importance_ratio=config.importance_ratio,
        match_costs=MatchCosts(**config.match_costs),
        deep_supervision=config.deep_supervision,
        box_losses=config.box_losses,
        denoising=config.denoising,
    )


def _stack(sets: Iterable[QueryOutputs], attribute: str) -> Tensor:
    values = [getattr(outputs, attribute) for outputs in sets]
    if len({tuple(value.shape) for value in values}) > 1:
        raise ShapeError(f"output sets differ in {attribute}", known=[tuple(value.shape) for value in values])
    return torch.stack(values)


def _name(
    sums: Mapping[str, Float[Tensor, " sets"]], names: Mapping[str, QueryOutputs] | Sequence[str], prefix: str = ""
) -> dict[tuple[str, str], Tensor]:
    """One entry per kind and set: the key is the kind and the suffix of the loss's name."""
    return {
        (kind, prefix + _suffix(name)): total
        for kind, totals in sums.items()
        for name, total in zip(names, totals.unbind(0), strict=True)
    }


def _suffix(name: str) -> str:
    return "" if name == "final" else f"_{name}"


def _denoising_matches(outputs: DecoderOutputs, batch: GleeBatch) -> Matches:
    """Group g of object j of an image sits at query g · (pad / groups) + j; all denoising sets share the pairs."""
    device, groups = batch.boxes_cxcywh.device, outputs.denoising_groups
    width = outputs.denoising_pad // groups
    copies = range(groups)
    queries = [g * width + j for count in batch.num_objects for g in copies for j in range(count)]
    starts = Jagged(batch.num_objects, torch.device("cpu")).starts
    objects = [s + j for s, count in zip(starts, batch.num_objects, strict=True) for g in copies for j in range(count)]
    sets = len(outputs.denoising)
    index = to_device([queries, objects], device)[:, None].expand(2, sets, -1)
    return Matches(Jagged([count * groups for count in batch.num_objects], device), index[0], index[1])
