"""Golden training passes: splices, logits, the loss and every gradient of one collated batch."""

from dataclasses import dataclass

import torch
from mmcore.contract.recipe import matches_any
from mmcore.language.batch import ConversationBatch
from mmcore.language.masking import Masking
from mmcore.language.sequence import IGNORE, Encoded
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import config_of, encoded_rows, limits_of, make_batch, model_of
from mmcore_griffon.parity.splicing import spliced_labels

TRAINED = {
    "all": ("language", "tower", "projector", "region.projector"),
    "projector": ("projector",),
    "prompt_projector": ("region.projector",),
    "freeze_llm": ("tower", "projector"),
}
"""What a case's stage trains."""


@dataclass
class Passed:
    """A batch and what the model made of it, padding of the published code included."""

    batch: ConversationBatch
    rows: list[Encoded]
    """Those that hold a token; a collator that cuts behind left padding leaves some without any."""
    whole: list[int]
    """Row of the stored batch that each of them was."""
    stored: tuple[int, int]
    """Rows and length of the stored, spliced batch."""
    side: str

    def places(self) -> list[tuple[int, slice, slice]]:
        """Of every sample its stored row, where it lies there, and where it lies in ours."""
        result = []
        for row, place in zip(self.whole, self.batch.sequences.locations, strict=True):
            start = self.stored[1] - place.length if self.side == "left" else 0
            result.append((row, slice(start, start + place.length), slice(place.start, place.start + place.length)))
        return result

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Values of our rows at their stored places."""
        result = torch.full((*self.stored, *values.shape[2:]), fill, dtype=values.dtype)
        for number, (row, there, here) in enumerate(self.places()):
            result[row, there] = values[number, here]
        return result


class PublishedMasking(Masking):
    """What eager attention of transformers 4 shows queries at padding: words before them, and where there are none,
    everything alike."""

    def _make(self, window: int | None) -> Tensor:
        assert self.valid is not None
        distance = self.order[:, :, None] - self.key_order[:, None, :]
        seen = (distance >= 0) & self.valid[:, None, :]
        return (seen if window is None else seen & (distance < window))[:, None]


def check_forward(case: Case, report: Report) -> None:
    """One batch through the model as a stage trains it."""
    config = config_of(case)
    model = model_of(config)
    trained = TRAINED[case.data["stage"]]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(matches_any(trained, name))
    passed = batch_of(case, config)
    report.covers("labels", "images", "regions")  # inputs
    _check_splice(case, report, model, passed)
    _check_logits(case, report, model, passed)
    _check_loss(case, report, model, passed)
    _check_gradients(case, report, model)


def batch_of(case: Case, config: GriffonConfig) -> Passed:
    """The stored batch, without its padding."""
    given, side = case.tensors, case.data["padding_side"]
    mask = given["attention_mask"].bool()
    whole = [row for row in range(len(mask)) if mask[row].any()]
    rows = encoded_rows(given["input_ids"][whole], given["labels"][whole], mask[whole])
    regions = given.get("regions")
    batch = make_batch(
        case.name,
        config,
        rows,
        given["images"][whole],
        None if regions is None else regions[whole],
        padding_side=side,
    )
    count, length = given["spliced_labels"].shape
    return Passed(batch, rows, whole, (count, length), side)


def _check_splice(case: Case, report: Report, model: Griffon, passed: Passed) -> None:
    given = case.tensors
    with torch.no_grad():
        embeds = _embeds(model, passed) / (model.language.embed_scale or 1.0)
    stored = given["spliced_inputs_embeds"]
    report.close("spliced_inputs_embeds", embeds[..., : stored.shape[-1]], stored, **limits_of(case, "activations"))
    labels = passed.spread(spliced_labels(passed.batch.sequences, passed.rows), IGNORE)
    report.equal("spliced_labels", labels, given["spliced_labels"])
    mask = passed.spread(passed.batch.sequences.valid).to(torch.uint8)
    report.equal("spliced_attention_mask", mask, given["spliced_attention_mask"])
    counts = torch.zeros(len(mask), dtype=torch.int64)
    counts[passed.whole] = _per_sample(passed, torch.ones(len(passed.batch.sequences.targets))).long()
    report.equal("supervised_tokens", counts, given["supervised_tokens"])


def _embeds(model: Griffon, passed: Passed) -> Tensor:
    return passed.spread(model.language.embed(passed.batch.sequences, model.spliced(passed.batch)))


def _per_sample(passed: Passed, values: Tensor) -> Tensor:
    """Sums over the supervised positions of each sample, one a row."""
    rows, length = passed.batch.sequences.shape
    return torch.zeros(rows).index_add(0, passed.batch.sequences.supervised // length, values)


def _check_logits(case: Case, report: Report, model: Griffon, passed: Passed) -> None:
    """Logits at words from our own attention; at padding from the published one's."""
    given, limits, sequences = case.tensors, limits_of(case, "activations"), passed.batch.sequences
    with torch.no_grad():
        ours = model.language(model.language.embed(sequences, model.spliced(passed.batch)), sequences).last
        logits = model.language.lm_head(_published(model, passed))
        for number, (row, there, here) in enumerate(passed.places()):
            logits[row, there] = model.language.lm_head(ours[number, here])
    report.close("logits_logsumexp", logits.logsumexp(-1), given["logits_logsumexp"], **limits)
    labels = given["spliced_labels"][:, 1:]
    at_label = logits[:, :-1].gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == IGNORE, 0)
    report.close("logits_at_label", at_label, given["logits_at_label"], **limits)
    index = given["logits_probe_index"]
    report.covers("logits_probe_index")
    report.close("logits_probe", logits[index[:, 0], index[:, 1]], given["logits_probe"], **limits)


def _published(model: Griffon, passed: Passed) -> Tensor:
    """Hidden states of the stored batch under the published masks, positions counted through padding."""
    embeds = _embeds(model, passed)
    valid = passed.spread(passed.batch.sequences.valid)
    order = torch.arange(embeds.shape[1])[None]
    masking = PublishedMasking(order, order, valid=valid, longest=embeds.shape[1] + 1, kernel="eager")
    return model.language.run(embeds, order.expand(len(embeds), -1), masking)


def _check_loss(case: Case, report: Report, model: Griffon, passed: Passed) -> None:
    given, limits, sequences = case.tensors, limits_of(case, "loss"), passed.batch.sequences
    total = model(passed.batch)["text"].total
    loss = total / len(sequences.targets)
    report.close("loss", loss, given["loss"], **limits)
    report.close("loss (case.json)", loss, case.data["loss"], **limits)
    loss.backward()
    with torch.no_grad():
        hidden = model.language(model.language.embed(sequences, model.spliced(passed.batch)), sequences).last
        logits = model.language.lm_head(hidden.flatten(0, 1)[sequences.supervised])
        losses = torch.nn.functional.cross_entropy(logits, sequences.targets, reduction="none")
    means = torch.zeros(passed.stored[0])
    counts = _per_sample(passed, torch.ones(len(losses)))
    means[passed.whole] = _per_sample(passed, losses) / counts.clamp(min=1)
    report.close("loss_per_sample", means, given["loss_per_sample"], **limits)


def _check_gradients(case: Case, report: Report, model: Griffon) -> None:
    """Norms of all trained parameters, the stored whole gradients, and which parameters have none."""
    limits, wanted = limits_of(case, "grads"), case.data["grad_norms"]
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.items()}
    gradients = model.published().to_published(found)
    nothing = sorted(name for name, gradient in gradients.items() if not gradient.any())
    idle = set(case.data["trainable_without_grad"])
    report.equal("trained", sorted(gradients), sorted({*wanted, *idle}))
    report.equal("without gradient", [name for name in nothing if name not in wanted], sorted(idle))
    for name, norm in wanted.items():
        report.close(f"norm {name}", gradients[name].norm() if name in gradients else torch.nan, norm, **limits)
    for name in case.tensors:
        if name.startswith("grad."):
            report.close(name, gradients.get(name[5:], torch.tensor(torch.nan)), case.tensors[name], **limits)


KINDS: dict[str, Check] = {"forward_": check_forward}
