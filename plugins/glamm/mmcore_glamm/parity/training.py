"""One forward and backward pass, and several optimiser steps."""

import re
from typing import Any

import torch
from mmcore.geometry.square import enlarge
from mmcore.parity import Case, Report
from torch import Tensor

from mmcore_glamm.batch import GlammBatch
from mmcore_glamm.model import Glamm
from mmcore_glamm.parity.common import (
    Built,
    Picture,
    batch_of,
    beside,
    built,
    limits,
    losses_of,
    pictures_of,
    published_names,
    train_like,
)

EXACT_ZERO = 1e-6
"""Gradient norms below it are zeros of the mathematics."""


def train(case: Case, report: Report) -> None:
    """Losses, what lies between, and gradients; or a run in the published precision."""
    if "inputs_from" in case.data:
        bf16(case, report)
        return
    whole = built(case)
    model = whole.model.train()
    trained = train_like(model)
    if "lora" not in case.data:
        trained |= _full(model)
    batch = batch_of(case, model.config, pictures_of(case))
    _middle(case, report, model, batch)
    losses = losses_of(model, batch)
    for name, value in losses.items():
        if f"out.{name}" in case.tensors:
            report.close(f"out.{name}", value, case.tensors[f"out.{name}"], **limits(case, "out"))
    losses["loss"].backward()
    gradients(case, report, whole, trained)


def _full(model: Glamm) -> dict[str, str]:
    """Without adapters language layers and projector train as well; returns our names of all that trains."""
    names = published_names(model)
    for ours, parameter in model.named_parameters():
        if ours.startswith(("language.model.layers.", "projector.")):
            parameter.requires_grad_(True)
    return {ours: names[ours] for ours, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(case: Case, report: Report, whole: Built, trained: dict[str, str]) -> None:
    """Norms of every gradient, and some whole ones."""
    by_name = {theirs: whole.model.get_parameter(ours) for ours, theirs in trained.items()}
    bounds = limits(case, "grad")
    for name, norm in case.data.get("grad_norms", {}).items():
        gradient = by_name[name].grad if name in by_name else torch.full((), torch.nan)
        value = torch.zeros(()) if gradient is None else gradient.norm()
        small = norm < EXACT_ZERO
        report.close(f"grad norm {name}", value, norm, **({"absolute": bounds["absolute"]} if small else bounds))
    reached = {name for name, p in by_name.items() if p.grad is not None and float(p.grad.norm()) > EXACT_ZERO}
    if "lm_head.weight" in case.data.get("grad_norms", {}):  # else the case lists some parts only
        report.equal("which parameters have a gradient", sorted(reached - set(case.data["grad_norms"])), [])
    for name, stored in case.tensors.items():
        if name.startswith("grad."):
            found = by_name[name.removeprefix("grad.")].grad
            report.close(name, found if found is not None else torch.zeros_like(stored), stored, **bounds)


def _middle(case: Case, report: Report, model: Any, batch: GlammBatch) -> None:
    """Everything between that a case stores."""
    stored = {name: value for name, value in case.tensors.items() if name.startswith("mid.")}
    bounds = limits(case, "mid")
    if not stored:
        return
    with torch.no_grad():
        found = _computed(model, batch)
    for name, value in stored.items():
        key, _, number = name.removeprefix("mid.").rpartition(".")
        actual = found[key][int(number)] if number.isdigit() else found[name.removeprefix("mid.")]
        if value.dtype in (torch.bool, torch.int64):
            report.equal(name, actual, value)
        else:
            report.close(name, actual, value, **bounds)


def _computed(model: Any, batch: GlammBatch) -> dict[str, Any]:
    """What cases store of a forward pass, under their names."""
    sequences = batch.sequences
    rows, length = sequences.shape
    spliced = model.spliced(batch)
    embeds = model.language.embed(sequences, spliced)
    words = model.language.embed_tokens(sequences.ids)
    shown = torch.where(sequences.valid[..., None], embeds, words)  # the reference embeds padding too
    labels = torch.full((rows * length,), -100)
    labels[sequences.supervised + 1] = sequences.targets
    found: dict[str, Any] = {
        "embeds_first_40": shown[:, :40],
        "embeds_last_40": shown[:, -40:],
        "spliced_labels": labels.view(rows, length),
        "spliced_attention": sequences.valid,
    }
    if "region" in spliced:
        counts = torch.bincount(batch.box_rows, minlength=len(batch.region_rows)).tolist()
        found["region_embeds"] = spliced["region"][:, 0].split(counts)
    if len(batch.mask_rows):
        found |= _masks(model, batch, embeds)
    return found


def _masks(model: Any, batch: GlammBatch, embeds: Tensor) -> dict[str, Any]:
    rows, length = batch.sequences.shape
    hidden = model.language(embeds, batch.sequences).last.flatten(0, 1)[batch.seg_places]
    maps = model.maps(batch)
    low = model.draw(maps, hidden, batch.mask_rows)
    counts = [count for count in batch.num_masks if count]
    marked = torch.zeros(rows * length, dtype=torch.bool)
    marked[batch.seg_places] = True
    return {
        "last_hidden_at_seg": hidden,
        "pred_embedding": model.seg_projection(hidden).split(list(batch.num_masks)),
        "pred_masks": [
            enlarge(part, place, model.side) for part, place in zip(low.split(counts), model.frames(batch), strict=True)
        ],
        "sam_embedding": maps,
        "seg_position_mask": marked.view(rows, length),
    }


def steps(case: Case, report: Report) -> None:
    """Several optimiser steps with accumulation, clipping and batches of several kinds."""
    model = built(case).model.train()
    trained = train_like(model)
    parameters = {theirs: model.get_parameter(ours) for ours, theirs in trained.items()}
    before = {theirs: parameter.detach().clone() for theirs, parameter in parameters.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    accumulation = case.data["accumulation"]
    for step, rate in enumerate(case.data["learning_rates"]):
        optimiser.zero_grad(set_to_none=False)
        for micro in range(step * accumulation, (step + 1) * accumulation):
            batch = batch_of(case, model.config, _step_pictures(case, micro), f"in.{micro}.")
            losses = losses_of(model, batch)
            for name, value in case.data["losses"][micro].items():
                report.close(f"micro-batch {micro}, {name}", losses[name], value, **limits(case, "losses"))
            (losses["loss"] / accumulation).backward()
        for parameter in parameters.values():  # what no loss reached takes part with zeros, and goes on by its momentum
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        expected = case.data["grad_norm_before_clip"][step]
        report.close(f"step {step}, gradient norm", norm, expected, **limits(case, "losses"))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    change = {theirs: parameter.detach() - before[theirs] for theirs, parameter in parameters.items()}
    for name, norm in case.data["delta_norms"].items():
        report.close(f"change of {name}", change[name].norm(), norm, **limits(case, "delta"))
    for name, value in case.tensors.items():
        if name.startswith("out.delta."):
            _close_change(report, name, change[name.removeprefix("out.delta.")], value, limits(case, "delta"))


def _close_change(report: Report, name: str, actual: Tensor, expected: Tensor, bounds: dict[str, float]) -> None:
    """Adam turns a gradient that is numerically zero into a whole step of either sign, so single entries may differ."""
    report.close(name, actual, expected, norm_relative=bounds["relative"], absolute=bounds["absolute"])


def bf16(case: Case, report: Report) -> None:
    """The distance of a run in the published precision from the reference's own."""
    for kind, expected in case.data["results"].items():
        source = next(name for name in case.data["inputs_from"] if f"_{kind}_" in name)
        inputs = beside(case, source)
        whole = built(inputs)
        model = whole.model.train()
        trained = train_like(model)
        batch = batch_of(inputs, model.config, pictures_of(inputs))
        with torch.autocast("cpu", torch.bfloat16):
            losses = losses_of(model, batch)
        losses["loss"].backward()
        for name, value in losses.items():
            report.close(f"{kind}: {name}", value, expected[name], **limits(case, "losses"))
        by_name = {theirs: model.get_parameter(ours) for ours, theirs in trained.items()}
        for name, norm in expected["grad_norms"].items():
            gradient = by_name[name].grad
            assert gradient is not None, name
            report.close(f"{kind}: gradient norm of {name}", gradient.norm(), norm, **limits(case, "grad_norms"))


def _step_pictures(case: Case, micro: int) -> list[Picture]:
    """The pictures of one micro-batch, from the sentence in which the case describes them."""
    kind = case.data["kinds"][micro // case.data["accumulation"]]
    told = case.data["batches"].split(":", 1)[1].split(";")[kind]
    seeds = [int(start) + micro for start in re.findall(r"(?<![\d+])(\d+)\+n", told)]
    if "sam" not in told:
        return [Picture(seed) for seed in seeds]
    sizes = [tuple(case.tensors[f"in.{micro}.masks.{number}"].shape[1:]) for number in range(len(seeds) // 2)]
    pairs = zip(seeds[::2], seeds[1::2], sizes, strict=True)
    return [Picture(clip, sam, (height, width)) for clip, sam, (height, width) in pairs]


KINDS = {"train": train, "steps": steps}
