"""Greedy answers with masks, and the masks of answers that are given."""

import torch
from mmcore.language.generate import Stop
from mmcore.language.sequence import IMAGE
from mmcore.parity import Case, Report
from torch import Tensor

from mmcore_glamm.answers import draw, generate_with_masks
from mmcore_glamm.parity.common import Picture, batch_of, built, ids_of, limits, pictures_of


def infer(case: Case, report: Report) -> None:
    """Generation where a case says how many tokens, else masks of what is given."""
    check = generation if "max_new_tokens" in case.data else teacher_forced
    check(case, report)


def generation(case: Case, report: Report) -> None:
    """Token ids exactly, and the masks of every `[SEG]` of prompt and answer; with the boxes and without."""
    model, size = built(case).model.eval(), (case.data["H"], case.data["W"])
    picture = Picture(case.data["clip_seed"], case.data["sam_seed"], size)
    for suffix, with_boxes in (("", True), ("_without_boxes", False)):
        if f"out.ids{suffix}" not in case.tensors:
            continue
        batch = batch_of(case, model.config, [picture], boxes=with_boxes)
        batch.max_new_tokens = case.data["max_new_tokens"]
        found = generate_with_masks(model, batch, ids_of(case).seg, stop=Stop(ids=(2,)))
        prompt = case.tensors["in.input_ids"][0].tolist()
        report.equal(f"out.ids{suffix}", [prompt + found.ids[0]], case.tensors[f"out.ids{suffix}"])
        masks = found.masks[0]
        report.close(f"out.masks{suffix}", masks, case.tensors[f"out.masks{suffix}"], **limits(case, "masks"))
        if not suffix:
            share = (masks > 0).float().mean((1, 2))
            pixels = 2.0 / masks[0].numel()  # two pixels may lie on the threshold
            report.close("out.binary_fraction", share, case.tensors["out.binary_fraction"], absolute=pixels)
            _first_logits(case, report, model, batch)
    assert IMAGE in case.tensors["in.input_ids"][0]


def _first_logits(case: Case, report: Report, model, batch) -> None:
    with torch.no_grad():
        last = model.hidden(batch).last[0, batch.sequences.locations[0].length - 1]
        logits = model.language.lm_head(last)
    report.close("out.first_step_logits", logits, case.tensors["out.first_step_logits"], **limits(case, "masks"))


def teacher_forced(case: Case, report: Report) -> None:
    """The masks of `[SEG]`s that the text holds, and how they lie over the targets at threshold 0."""
    model = built(case).model.eval()
    batch = batch_of(case, model.config, pictures_of(case))
    with torch.no_grad():
        states = model.hidden(batch).last.flatten(0, 1).index_select(0, batch.seg_places)
        masks = draw(model, batch, states, batch.num_masks)
    report.close("out.masks", torch.cat(masks), case.tensors["out.masks"], **limits(case, "masks"))
    over, union = _overlaps(masks, batch.masks)
    pixels = 3.0
    report.close("out.intersection", over.sum(0), case.tensors["out.intersection"], absolute=pixels)
    report.close("out.union", union.sum(0), case.tensors["out.union"], absolute=pixels)
    each = over / (union + 1e-5) + (union == 0)
    report.close("out.mean_iou_per_class", each.mean(0), case.tensors["out.mean_iou_per_class"], absolute=2e-3)


def _overlaps(masks: list[Tensor], targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Intersection and union of background and foreground, mask by mask."""
    pairs = [((m > 0), t > 0) for own, wanted in zip(masks, targets, strict=True) for m, t in zip(own, wanted)]
    over = torch.tensor([[float((~a & ~b).sum()), float((a & b).sum())] for a, b in pairs])
    union = torch.tensor([[float((~a | ~b).sum()), float((a | b).sum())] for a, b in pairs])
    return over, union


KINDS = {"infer": infer}
