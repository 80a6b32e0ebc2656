"""Golden training steps: inputs, outputs, matching, losses and gradients of every task, and optimiser steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmcore.contract.values import Losses
from mmcore.losses import Jagged, Matches
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.criterion import Criterion
from mmcore_glee.model import Glee
from mmcore_glee.outputs import DecoderOutputs, Draws
from mmcore_glee.parity.common import StoredDraws, close_all, mask_logits, model_of, training_batch
from mmcore_glee.parity.components import levels_of
from mmcore_glee.text_encoder import TextFeatures
from mmcore_glee.vocabulary import names as vocabulary

SAMPLED = {"obj365": "obj365", "openimage": "openimage", "lvis": "lvis"}
"""Tasks whose labels count in a drawn vocabulary, and the list their classes count in."""
TINY_LOSS = 1e-9
"""Losses are of order one. Far below that the published float32 code rounds: it takes 1 - p of a p close to 1."""
ROUNDING = 1e-8
"""Gradients below this share of the largest are float32 noise around an exact zero (a softmax ignores key biases)."""


@dataclass
class Recorded:
    """What happened inside one training step."""

    outputs: DecoderOutputs
    matches: Matches
    matched_sets: tuple[str, ...]
    track_matches: Matches | None
    text: TextFeatures
    pixels: Tensor
    shapes: tuple[tuple[int, int], ...]
    losses: Losses


class _Spy:
    """Stands where the criterion stands and keeps what passes."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.track_matches: Matches | None = None

    def match(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> Matches:
        self.track_matches = self.criterion.match(outputs, batch, draws)
        return self.track_matches

    def __call__(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> Losses:
        self.outputs = outputs
        outputs = self.criterion.counted(outputs)
        self.matched_sets = tuple(outputs.sets)
        self.matches = self.criterion.match(outputs, batch, draws)
        return self.criterion.losses(outputs, batch, draws, self.matches)


def step(model: Glee, batch: GleeBatch, draws: Draws) -> Recorded:
    """One forward pass in training mode, watched."""
    model.query_decoder.deep_supervision = True  # cases store what every layer predicts, whatever has losses
    spy = _Spy(model.criterion if not isinstance(model.criterion, _Spy) else model.criterion.criterion)
    with _set(model, "criterion", spy), _watch(model) as seen:
        losses = Glee.forward(model.train(), batch, draws)
    pixels, _ = seen["pixel_decoder"]
    sets = spy.matched_sets
    return Recorded(spy.outputs, spy.matches, sets, spy.track_matches, seen["text"], pixels, seen["shapes"], losses)


@contextmanager
def _set(model: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(model, name)
    object.__setattr__(model, name, value) if name not in model._modules else setattr(model, name, value)
    try:
        yield
    finally:
        setattr(model, name, before)


@contextmanager
def _watch(model: Glee) -> Iterator[dict[str, Any]]:
    seen: dict[str, Any] = {}
    encode = model.encode_text

    def encode_text(batch: GleeBatch) -> TextFeatures:
        seen["text"] = encode(batch)
        return seen["text"]

    def keep(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
        seen["shapes"], seen["pixel_decoder"] = inputs[1], output

    handle = model.pixel_decoder.register_forward_hook(keep)
    with _set(model, "encode_text", encode_text):
        try:
            yield seen
        finally:
            handle.remove()


def normalised(losses: Losses, batch: GleeBatch) -> dict[str, Tensor]:
    """Each loss divided by its count in this micro-batch, as one process of the published code does."""
    return {name: loss.total / max(batch.normalisers[loss.per], 1.0) for name, loss in losses.items()}


def check_training(case: Case, report: Report) -> None:
    """One step of a task."""
    model, batch = model_of(case), training_batch(case)
    _check_inputs(case, report, model, batch)
    drawn = [entry[2] for entry in case.data.get("other_draws", ()) if entry[1] == "sample"]
    tracks = batch.num_frames is not None and batch.prompt_masks is None
    draws = StoredDraws(case.tensors, skip=_point_draws(batch), negatives=drawn if tracks else ())
    recorded = step(model, batch, draws)
    losses = normalised(recorded.losses, batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    tolerance = case.data["tolerance"]
    _check_outputs(case, report, recorded)
    if batch.prompt_masks is not None:
        _check_prompt(case, report, model, batch, recorded, draws)
    if "track" in case.data["matching"] and recorded.track_matches is None:
        # Of clips of one frame, whose track loss is zero, the published code matches too.
        final = replace(recorded.outputs, sets={"track": recorded.outputs.sets["final"]})
        recorded.track_matches = model.criterion.match(final, batch, draws)
    found = matching(recorded, batch)
    report.equal("matching", found, _computed(model, case.data["matching"], found))
    report.equal("names of losses", sorted(losses), sorted(case.data["losses"]))
    close_all(report, losses, case.data["losses"], relative=tolerance["losses_relative"], absolute=TINY_LOSS)
    report.close("total", total.reshape(1), case.tensors["total"], relative=tolerance["losses_relative"])
    _check_gradients(case, report, model)


def _point_draws(batch: GleeBatch) -> int:
    """How many permutations chose the points of point prompts: one per object of more than one pixel."""
    if batch.prompt_mode != "point" or batch.masks is None:
        return 0
    return int((batch.masks.flatten(1).sum(1, dtype=torch.int64) > 1).sum())


def _check_inputs(case: Case, report: Report, model: Glee, batch: GleeBatch) -> None:
    given, stored = case.tensors, case.data["padded_images"]
    images = model.normalise(batch)
    report.equal("padded_images.shape", list(images.shape), stored["shape"])
    report.close("padded_images.mean", images.mean(), stored["mean"], absolute=1e-6)
    report.close("padded_images.std", images.std(), stored["std"], absolute=1e-6)
    starts = Jagged(batch.num_objects, torch.device("cpu")).starts
    for i, (start, count) in enumerate(zip(starts, batch.num_objects, strict=True)):
        mine = slice(start, start + count)
        report.close(f"target.{i}.boxes", batch.boxes_cxcywh[mine], given[f"target.{i}.boxes"], absolute=1e-6)
        labels = batch.labels[mine] if batch.num_frames else _labels(case, i, batch, mine)
        report.equal(f"target.{i}.labels", labels, given[f"target.{i}.labels"])
        if batch.track_ids is not None:
            report.equal(f"target.{i}.inst_id", batch.track_ids[mine], given[f"target.{i}.inst_id"])
        if f"target.{i}.mask_area" in given:
            assert batch.masks is not None
            area = batch.masks[mine].flatten(1).sum(1, dtype=torch.int64)
            report.equal(f"target.{i}.mask_area", area, given[f"target.{i}.mask_area"])


def _labels(case: Case, i: int, batch: GleeBatch, mine: slice) -> Tensor:
    """Labels from the stored classes, through the drawn vocabulary where there is one."""
    classes = case.tensors[f"in.{i}.classes"]
    if case.data.get("prompt_mode"):
        chosen = [entry[2][0] for entry in case.data["other_draws"] if entry[1] == "sample"]
        classes = classes[[chosen[i]]]
    if batch.task in SAMPLED:
        words = vocabulary(SAMPLED[batch.task])
        return torch.tensor([batch.names.index(words[c]) for c in classes.tolist()], dtype=torch.int64)
    # Phrases are given as labels: the case does not say which object had which phrase.
    return batch.labels[mine] if batch.task in ("vg", "grit") else classes


def _computed(model: Glee, stored: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What is stored of the sets that have losses; the published code also matches those whose losses it drops."""
    return stored if model.config.deep_supervision else {name: stored[name] for name in found}


def _check_outputs(case: Case, report: Report, recorded: Recorded) -> None:
    given, outputs = case.tensors, recorded.outputs
    final = outputs.sets["final"]
    assert final.mask_embed is not None
    masks = mask_logits(final.mask_embed, outputs.mask_features)
    actual = {
        "out.class_embeddings": recorded.text.classes,
        "out.grounding_class": recorded.text.classes,
        "out.pred_logits": final.logits,
        "out.pred_boxes": final.boxes_cxcywh,
        "out.pred_scores": final.confidence,
        "out.pred_masks": masks,
        "out.pred_masks_mean_per_query": masks.flatten(2).mean(-1),
        "out.pred_masks_std_per_query": masks.flatten(2).std(-1),
    }
    for name, queries in {**outputs.sets, "dn": outputs.denoising.get("final")}.items():
        label = name if name in ("interm", "dn") else f"aux{name}"
        if queries is not None and name != "final":
            actual[f"out.{label}.pred_logits"] = queries.logits
            actual[f"out.{label}.pred_logits_mean"] = queries.logits.mean(-1)
            actual[f"out.{label}.pred_boxes"] = queries.boxes_cxcywh
    names = [name for name in case.outputs() if name.startswith("out.")]
    close_all(report, actual, given, names, absolute=case.data["tolerance"]["outputs_absolute"])
    stored = case.data.get("dn")
    found = (
        {"pad_size": outputs.denoising_pad, "groups": outputs.denoising_groups} if outputs.denoising_groups else None
    )
    report.equal("dn", found, stored)
    _check_statistics(case, report, recorded)


def _check_statistics(case: Case, report: Report, recorded: Recorded) -> None:
    stored = case.data["stats"]
    limit = case.data["tolerance"]["outputs_absolute"]
    features = recorded.outputs.mask_features
    report.close("stats.mask_features", [features.mean(), features.std()], stored["mask_features"], absolute=limit)
    levels = levels_of(recorded.pixels, recorded.shapes)
    for i, (level, (mean, deviation, shape)) in enumerate(zip(levels, stored["multi_scale"], strict=True)):
        report.equal(f"stats.multi_scale.{i}.shape", list(level.shape), shape)
        report.close(f"stats.multi_scale.{i}", [level.mean(), level.std()], [mean, deviation], absolute=limit)


def _check_prompt(
    case: Case, report: Report, model: Glee, batch: GleeBatch, recorded: Recorded, draws: StoredDraws
) -> None:
    from mmcore_glee.prompt import fill_boxes

    assert batch.prompt_masks is not None
    images = model.normalise(batch)
    pixels = recorded.pixels
    if batch.num_frames is not None:
        images, pixels = images[batch.first_frames], pixels[batch.first_frames]
    tokens = model.prompt.template(images, batch.prompt_masks, batch.prompt_mode, model.backbone)
    limit = case.data["tolerance"]["outputs_absolute"]
    report.equal("prompt_template_tokens", list(tokens.shape), case.data["prompt_template_tokens"])
    name = "prompt.template_tokens_mean_per_token"
    report.close(name, tokens.mean(-1), case.tensors[name], absolute=limit)
    masks = batch.prompt_masks if batch.prompt_mode == "mask" else fill_boxes(batch.prompt_masks)
    for level in range(len(recorded.shapes)):
        tokens, valid = model.prompt.level(level, pixels, recorded.shapes, masks, draws)
        if batch.num_frames is not None:
            tokens, valid = tokens[batch.clip_of_frame], valid[batch.clip_of_frame]
        width = case.tensors[f"prompt.level{level}.pad_mask"].shape[1]
        report.equal(f"prompt.level{level}.beyond", bool(valid[:, width:].any()), False)
        mean = f"prompt.level{level}.tokens_mean"
        report.close(mean, tokens[:, :width].mean(-1).T, case.tensors[mean], absolute=limit)
        padding = f"prompt.level{level}.pad_mask"
        report.equal(padding, (~valid[:, :width]).to(torch.uint8), case.tensors[padding])


def matching(recorded: Recorded, batch: GleeBatch) -> dict[str, Any]:
    """Queries and objects of every image and output set, as the published matcher returns them."""
    result = _pairs(recorded.matches, batch, recorded.matched_sets)
    if recorded.track_matches is not None:
        result |= _pairs(recorded.track_matches, batch, ("track",))
    return result


def _pairs(matches: Matches, batch: GleeBatch, sets: tuple[str, ...]) -> dict[str, Any]:
    starts = Jagged(batch.num_objects, torch.device("cpu")).starts
    result = {}
    for row, name in enumerate(sets):
        queries, objects = (part[row].split(matches.pairs.counts) for part in (matches.queries, matches.objects))
        result[name] = [[q.tolist(), (o - s).tolist()] for q, o, s in zip(queries, objects, starts, strict=True)]
    return result


def _check_gradients(case: Case, report: Report, model: Glee) -> None:
    relative = case.data["tolerance"]["gradients_relative"]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
    zero = sum(not bool(gradient.any()) for gradient in own.values())
    report.equal("grad_zero_or_none", zero, case.data["grad_zero_or_none"])
    names = model.published()
    published = names.to_published(own)
    gradients = {f"grad.{name}": value for name, value in published.items() if name not in names.constants}
    norms = {name.removeprefix("grad."): value.norm() for name, value in gradients.items()}
    floor = ROUNDING * float(torch.stack(list(norms.values())).max())
    close_all(report, norms, case.data["grad_norms"], relative=relative, absolute=floor)
    stored = [name for name in case.outputs() if name.startswith("grad.")]
    close_all(report, gradients, case.tensors, stored, norm_relative=relative, absolute=floor)


KINDS: dict[str, Check] = {"train_": check_training}
