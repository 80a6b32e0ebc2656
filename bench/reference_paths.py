"""The plain ways of doing what the plugin does faster, for benchmarks: the published code's shape, the same numbers.

They are put in place of the plugin's own parts by composition; the plugin itself has no switches.

    whole masks      every set's masks for every query exist at once and wait for the backward pass
    match one by one each set of each image has its own costs and its own transfer
    77 tokens        names are padded to CLIP's full length, and encoded every step although nothing changed
    explicit scores  fusion attention as matrices of pixels by tokens, in both directions
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmcore.losses import (
    Jagged,
    MaskInputs,
    Matches,
    assign,
    box_costs,
    class_costs,
    dice_loss,
    match_queries,
    point_bce,
)
from mmcore_glee.batch import GleeBatch
from mmcore_glee.criterion import Criterion
from mmcore_glee.fusion import BiAttention
from mmcore_glee.outputs import DecoderOutputs, Draws, QueryOutputs
from mmcore_glee.text_encoder import PhraseMemo, hidden_states
from torch import Tensor
from torch.nn import functional as F


class KeyedDraws(Draws):
    """The same points for the same set, however the calls are cut; so variants can be compared number by number."""

    def match_points(self, sets: Sequence[str], num_images: int, num_points: int, device: torch.device) -> Tensor:
        return torch.stack([_uniform(f"match {name}", num_images, num_points, 2, device=device) for name in sets])

    def loss_points(
        self, sets: Sequence[str], num_pairs: int, num_oversampled: int, num_random: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.stack([_uniform(f"near {name}", num_pairs, num_oversampled, 2, device=device) for name in sets]),
            torch.stack([_uniform(f"any {name}", num_pairs, num_random, 2, device=device) for name in sets]),
        )

    def denoising(
        self, num_copies: int, num_classes: int, flip_probability: float, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        flip = _uniform("flip", num_copies, device=device) < flip_probability
        labels = (_uniform("label", num_copies, device=device) * num_classes).long()
        return flip, labels, _uniform("box", num_copies, 4, device=device)


def _uniform(key: str, *shape: int, device: torch.device) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator(device).manual_seed(sum(key.encode())), device=device)


@dataclass(frozen=True, kw_only=True)
class PlainCriterion(Criterion):
    """The criterion with whole masks, with matching one by one, or both."""

    whole_masks: bool = True
    one_by_one: bool = True

    def __call__(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> dict:
        if not self.whole_masks:
            return super().__call__(outputs, batch, draws)
        # As published: masks of all queries of all sets come out of the heads, before anything is matched.
        maps = {name: _whole_masks(one, outputs.mask_features) for name, one in outputs.sets.items()}
        matches = self._match_whole(outputs, batch, draws, maps)
        losses = self.losses(outputs, dataclasses.replace(batch, masks=None), draws, matches)
        for index, name in enumerate(outputs.sets):
            suffix = "" if name == "final" else f"_{name}"
            pairs = (matches.pairs, matches.queries[index], matches.objects[index])
            for kind, total in self._whole_mask_losses(name, maps[name], batch, draws, *pairs).items():
                key = f"loss_{kind}{suffix}"
                losses[key] = losses[key]._replace(total=self.weights[f"loss_{kind}"] * total)
        return losses

    @torch.no_grad()
    def match(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> Matches:
        """Sampled masks; one by one if asked."""
        if not self.one_by_one:
            return super().match(outputs, batch, draws)
        assert batch.masks is not None
        images = len(batch.num_objects)
        starts = Jagged(batch.num_objects, torch.device("cpu")).starts
        points = draws.match_points(tuple(outputs.sets), images, self.num_points, outputs.mask_features.device)
        found = []
        for index, one in enumerate(outputs.sets.values()):
            assert one.mask_embed is not None
            row = []
            for image, (start, count) in enumerate(zip(starts, batch.num_objects, strict=True)):
                objects, here = slice(start, start + count), slice(image, image + 1)
                masks = MaskInputs(
                    one.mask_embed[None, here],
                    outputs.mask_features[here],
                    batch.masks[objects],
                    points[index : index + 1, here],
                )
                row.append(
                    match_queries(
                        one.logits[None, here],
                        one.boxes_cxcywh[None, here],
                        batch.labels[objects],
                        batch.boxes_cxcywh[objects],
                        (count,),
                        self.match_costs,
                        masks,
                    )
                )
            found.append(row)
        return _joined(found, starts, outputs.mask_features.device)

    @torch.no_grad()
    def _match_whole(
        self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws, maps: Mapping[str, Tensor]
    ) -> Matches:
        assert batch.masks is not None
        images = len(batch.num_objects)
        device = outputs.mask_features.device
        starts = Jagged(batch.num_objects, torch.device("cpu")).starts
        points = draws.match_points(tuple(outputs.sets), images, self.num_points, device)
        found, costs = [], []
        for index, (name, one) in enumerate(outputs.sets.items()):
            row = []
            for image, (start, count) in enumerate(zip(starts, batch.num_objects, strict=True)):
                objects, here = slice(start, start + count), slice(image, image + 1)
                only = Jagged((count,), device)
                cost = self.match_costs.label * class_costs(one.logits[None, here], batch.labels[objects], only)
                distance, giou = box_costs(one.boxes_cxcywh[None, here], batch.boxes_cxcywh[objects], only)
                cost += self.match_costs.box * distance + self.match_costs.giou * giou
                truth = _grid_sample(batch.masks[objects, None].float(), points[index, here].expand(count, -1, -1))
                logits = _grid_sample(
                    maps[name][image][:, None], points[index, here].expand(len(maps[name][0]), -1, -1)
                )
                cross_entropy, dice = _plain_mask_costs(logits, truth)
                cost += self.match_costs.mask * cross_entropy + self.match_costs.dice * dice
                row.append(cost if not self.one_by_one else assign(cost, (count,)))
            costs.append(torch.cat(row, dim=1) if not self.one_by_one else None)
            found.append(row)
        if self.one_by_one:
            return _joined(found, starts, device)
        return assign(torch.cat(costs), batch.num_objects)

    def _whole_mask_losses(
        self, name: str, maps: Tensor, batch: GleeBatch, draws: Draws, pairs: Jagged, queries: Tensor, objects: Tensor
    ) -> dict[str, Tensor]:
        assert batch.masks is not None
        chosen = maps[pairs.images, queries]
        points = self._loss_points([name], chosen.detach(), pairs.total, draws)
        logits = _grid_sample(chosen[:, None], points)
        truth = _grid_sample(batch.masks.float()[objects][:, None], points)
        return {"mask": point_bce(logits, truth).sum(), "dice": dice_loss(logits, truth).sum()}


def _whole_masks(one: QueryOutputs, features: Tensor) -> Tensor:
    assert one.mask_embed is not None
    return torch.einsum("bqc,bchw->bqhw", one.mask_embed, features)


def _grid_sample(maps: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(maps, (2 * points - 1).unsqueeze(2), align_corners=False).flatten(1)


def _plain_mask_costs(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(1, objects, queries) from logits (queries, points) and targets (objects, points)."""
    positive = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    negative = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    cross_entropy = (positive @ truth.T + negative @ (1 - truth).T) / logits.shape[1]
    probability = logits.sigmoid()
    dice = 1 - (2 * probability @ truth.T + 1) / (probability.sum(1)[:, None] + truth.sum(1)[None] + 1)
    return cross_entropy.T[None], dice.T[None]


def _joined(found: Sequence[Sequence[Matches]], starts: Sequence[int], device: torch.device) -> Matches:
    """Matches of single sets and images as those of the whole step."""
    pairs = Jagged([matches.pairs.total for matches in found[0]], device)
    queries = [torch.cat([matches.queries for matches in row], dim=1) for row in found]
    objects = [
        torch.cat([matches.objects + start for matches, start in zip(row, starts, strict=True)], dim=1) for row in found
    ]
    return Matches(pairs, torch.cat(queries), torch.cat(objects))


class ExplicitBiAttention(BiAttention):
    """Fusion attention with the matrix of pixels by tokens written out, both directions computed in every step.

    The published code also fuses into the text, which nothing reads while training.
    """

    @classmethod
    def of(cls, attention: BiAttention) -> "ExplicitBiAttention":
        """The same weights."""
        weight = attention.query.weight
        plain = cls(weight.shape[1], weight.shape[0], attention.num_heads, attention.dropout)
        plain.load_state_dict(attention.state_dict(), assign=True)
        return plain.train(attention.training)

    def from_text(self, visual: Tensor, text: Tensor) -> Tensor:
        query, key = self._split(self.query(visual)), self._split(self.key(text))
        scores = (query @ key.transpose(2, 3)) / query.shape[-1] ** 0.5
        scores = (scores - scores.max()).clamp(-50000, 50000)
        backwards = scores.transpose(2, 3)
        backwards = (backwards - backwards.amax(-1, keepdim=True)).clamp(-50000, 50000)
        to_text = F.dropout(backwards.softmax(-1), self.dropout, self.training)
        to_pixels = F.dropout(scores.softmax(-1), self.dropout, self.training)
        self.text_out((to_text @ self._split(self.visual_value(visual))).transpose(1, 2).flatten(2))
        return self.visual_out((to_pixels @ self._split(self.text_value(text))).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class ForgetfulMemo(PhraseMemo):
    """Encodes every phrase every time."""

    def encode(self, clip: torch.nn.Module, names: Sequence[str], input_ids: Tensor) -> Tensor:
        return hidden_states(clip, input_ids)


def padded_to_full_length(batch: GleeBatch, length: int = 77, padding: int = 49407) -> GleeBatch:
    """The batch with its names padded to CLIP's full length, as the published code feeds them."""
    missing = length - batch.input_ids.shape[1]
    return dataclasses.replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, missing), value=padding),
        attention_mask=F.pad(batch.attention_mask, (0, missing), value=0),
    )
