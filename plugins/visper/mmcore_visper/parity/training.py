"""Golden training passes: hidden states, predictions, every loss and every gradient of one batch."""

import re
from collections.abc import Mapping, Sequence

import torch
from mmcore.contract.recipe import matches_any
from mmcore.contract.values import Losses
from mmcore.language.batch import ConversationBatch
from mmcore.language.llava.published_config import read_language
from mmcore.language.models import Hidden, build
from mmcore.language.sequence import IMAGE
from mmcore.language.splice import lay_out
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_visper.config import VisperConfig
from mmcore_visper.interpret import interpret
from mmcore_visper.losses import embedding_loss, gather_targets
from mmcore_visper.model import Visper
from mmcore_visper.parity.common import (
    batch_of,
    close_all,
    config_of,
    deterministic,
    encoded_rows,
    every,
    limits_of,
    model_of,
    spliced_labels,
    unit,
)
from mmcore_visper.recipes import stages

ROUNDING = 1e-6
"""Gradients below this share of the largest are zero but for rounding."""


def check_pt(case: Case, report: Report) -> None:
    """Stage pt: text and embedding losses, with and without the released code's zeroed masks."""
    config = pt_config(case)
    model = model_of(case, config)
    train_only(model, "pt")
    batch = batch_of(case, config, targets_of(case))
    everything = tuple(range(config.num_layers + 1))
    hidden, queries = model.forward_hidden(batch, everything)
    predictions = model.predict_features(batch, hidden, queries)
    _check_splice(case, report, batch)
    _check_hidden(case, report, model, batch, hidden)
    _check_predictions(case, report, model, batch)
    parts = _layer_losses(model, batch, predictions)
    expected = case.data["outputs"]["losses"]
    losses = normalised(model(batch), batch)
    total = torch.stack(list(losses.values())).sum()
    close_all(report, parts | {"total": total, "text": losses["text"]}, expected, **limits_of(case))
    report.close("loss_total", total, case.tensors["loss_total"], **limits_of(case))
    weights = {task.name: task.weight for task in config.tasks}
    stored = {name: weight for name, weight in case.data["outputs"]["loss_weights"].items() if name in weights}
    report.equal("loss_weights", weights, stored)
    total.backward()
    check_gradients(case, report, model)
    _check_released(case, report, model, batch)


def pt_config(case: Case) -> VisperConfig:
    """A case's configuration; with rows without an image the released averages over them."""
    dummies = bool(case.data["inputs"].get("no_image_rows"))
    return config_of(case, published={"outer_product_mask": dummies})


def targets_of(case: Case, entry: str = "targets", suffix: str = "") -> dict[str, Tensor]:
    """Targets by task, from their descriptions: `unit('name', [shape])`."""
    return {task: from_description(text, **{"<batch>": suffix}) for task, text in case.data["inputs"][entry].items()}


def from_description(text: str, **replaced: str) -> Tensor:
    """The tensor that `unit('name', [shape])` stands for."""
    match = re.search(r"unit\('([^']+)', ?\[([\d, ]+)\]\)", text)
    assert match is not None, text
    name = match.group(1)
    for part, value in replaced.items():
        name = name.replace(part, value)
    return unit(name, [int(size) for size in match.group(2).split(",")])


def train_only(model: Visper, stage: str) -> None:
    """Trainable parameters as the published recipe has them."""
    recipe = next(recipe for recipe in stages("llama3-vit") if recipe.name == stage)
    for name, parameter in model.named_parameters():
        wanted = matches_any(recipe.trainable, name) and not matches_any(recipe.frozen, name)
        parameter.requires_grad_(wanted)


def normalised(losses: Losses, batch: ConversationBatch) -> dict[str, Tensor]:
    """Means over what each loss is counted by."""
    return {name: loss.total / max(batch.normalisers[loss.per], 1.0) for name, loss in losses.items()}


def check_ift(case: Case, report: Report) -> None:
    """Stages ift and vpt, and the plain LLaVA baseline: text loss, its gradients, and other forms of task tokens."""
    config = config_of(case)
    model = model_of(case, config)
    train_only(model, "ift")
    batch = batch_of(case, config)
    hidden, _ = model.forward_hidden(batch, (0,))
    step = every(case, "spliced_embeds_probe")
    actual = {"spliced_embeds_probe": hidden.recorded[0][:, ::step], "logits_at_labels": _logits(model, batch, hidden)}
    close_all(report, actual, {name: case.tensors[name] for name in actual}, **limits_of(case))
    _check_splice(case, report, batch)
    loss = normalised(model(batch), batch)["text"]
    report.close("loss", loss, case.tensors["loss"], **limits_of(case))
    loss.backward()
    check_gradients(case, report, model)
    for form, expected in case.data["outputs"]["loss"].items():
        _check_form(case, report, form, expected)


def _check_form(case: Case, report: Report, form: str, expected: float) -> None:
    """The loss when depth and seg insert their rows in another form."""
    config = config_of(case, **({} if form == "default" else {"task_token_format": form}))
    batch = batch_of(case, config)
    with torch.no_grad():
        loss = normalised(model_of(case, config)(batch), batch)["text"]
    report.close(f"loss.{form}", loss, expected, **limits_of(case))
    report.equal(f"spliced_length.{form}", batch.sequences.shape[1], case.data["outputs"]["spliced_length"][form])


def check_window(case: Case, report: Report) -> None:
    """Phi-3's sliding window, which counts differently in today's transformers."""
    language = read_language(case.data["config"], "phi3" if "sliding_window" in case.data["config"] else "llama")
    model = build(language, "eager").eval()
    model.load_state_dict({name: deterministic(name, tuple(t.shape)) for name, t in model.state_dict().items()})
    ids = case.tensors["input_ids"]
    sequences = lay_out(encoded_rows(ids, None, None), {IMAGE: (("image", 1),)})
    with torch.no_grad():
        embeds = model.embed(sequences, {})
        hidden = model(embeds, sequences, range(model.num_layers + 1))
        logits = model.lm_head(hidden.last)
    stored = case.tensors["hidden_states"]
    states = torch.stack([hidden.recorded[i] for i in range(model.num_layers + 1)])
    states = states.flatten(1, 2)[:, :: -(-states.shape[2] // stored.shape[1])]
    report.close("hidden_states", states, stored, **limits_of(case))
    report.close("logits", logits, case.tensors["logits"], **limits_of(case))


def _check_splice(case: Case, report: Report, batch: ConversationBatch) -> None:
    report.covers("labels")  # an input
    if "task_mask" in case.tensors:
        has_image = torch.zeros(len(batch), dtype=torch.int64).index_fill(0, batch.image_samples, 1)
        report.equal("task_mask", has_image, case.tensors["task_mask"])
    report.equal("spliced_labels", spliced_labels(batch), case.tensors["spliced_labels"])


def _check_hidden(case: Case, report: Report, model: Visper, batch: ConversationBatch, hidden: Hidden) -> None:
    step = every(case, "hidden_states_probe")
    states = torch.stack([hidden.recorded[i] for i in range(model.config.num_layers + 1)])
    report.close("hidden_states_probe", states[:, :, ::step], case.tensors["hidden_states_probe"], **limits_of(case))
    logits = _logits(model, batch, hidden)
    report.close("logits_at_labels", logits, case.tensors["logits_at_labels"], **limits_of(case))


def _logits(model: Visper, batch: ConversationBatch, hidden: Hidden) -> Tensor:
    return model.language.lm_head(hidden.last.flatten(0, 1)[batch.sequences.supervised])


def _check_predictions(case: Case, report: Report, model: Visper, batch: ConversationBatch) -> None:
    stored = {name: t for name, t in case.tensors.items() if name.startswith(("pred.", "depth_map."))}
    shown = interpret(model, batch)
    tokens, sides, maps = every(case, "pred.depth.i"), every(case, "pred.seg.i"), every(case, "depth_map.i")
    actual: dict[str, Tensor] = {}
    for task, layers in shown.outputs.items():
        for i, outputs in enumerate(layers.values()):
            name = f"pred.{task}.{i}"
            if task == "depth":
                actual[name] = torch.stack(outputs)[:, :, ::tokens]
            else:
                actual[name] = outputs[0][..., ::sides, ::sides] if task == "seg" else outputs[0]
    for i, picture in enumerate(shown.depth_maps.values()):
        actual[f"depth_map.{i}"] = picture[:, ::maps, ::maps]
    close_all(report, actual, stored, **limits_of(case))


def _layer_losses(
    model: Visper, batch: ConversationBatch, predictions: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Of every layer: distance, contrast, and their sum, as means over samples."""
    result: dict[str, Tensor] = {}
    count = len(batch)
    outer = model.config.published.outer_product_mask
    mask = torch.zeros(count).index_fill(0, batch.image_samples, 1.0) if outer else None
    scales = model.logit_scales() if model.logit_scales is not None else {}
    for task in model.config.tasks:
        target = batch.features[task.name]
        for layer, prediction in zip(task.layers, predictions[task.name], strict=True):
            parts = embedding_loss(
                prediction,
                target,
                gather_targets(target) if scales else None,
                scales.get(task.name),
                weight=model.config.contrastive_weight,
                has_image=mask,
                outer_product=outer,
            )
            name = f"{task.name}.layer{layer}"
            result[f"{name}.smooth_l1"] = parts.smooth_l1 / count
            result[f"{name}.contrastive_weighted"] = parts.contrastive / count
            result[f"{name}.sum"] = (parts.smooth_l1 + parts.contrastive) / count
    return result


def check_gradients(case: Case, report: Report, model: Visper) -> None:
    """Norms of all trained parameters, and the stored whole gradients."""
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    given = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.items()}
    gradients = model.published().to_published(given)
    names = case.data["outputs"]["grad_names"]
    report.equal("trained parameters", sorted(gradients), sorted(names))
    norms = torch.stack([gradients[name].norm() if name in gradients else torch.tensor(torch.nan) for name in names])
    limits = limits_of(case)
    floor = limits["absolute"] + ROUNDING * float(norms.nan_to_num().max())
    report.close("grad_norms", norms, case.tensors["grad_norms"], absolute=floor, relative=limits["relative"])
    stored = {name: t for name, t in case.tensors.items() if name.startswith("grad.")}
    close_all(report, {f"grad.{name}": value for name, value in gradients.items()}, stored, **limits)


def _check_released(case: Case, report: Report, model: Visper, batch: ConversationBatch) -> None:
    """The released forward zeroes its masks: only the text is learned."""
    expected = case.data["outputs"]["as_released"]
    model.config = model.config.replace(published={"released_masks": True})
    model.zero_grad()
    losses = normalised(model(batch), batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    report.close("as_released.total", total, expected["total"], **limits_of(case))
    layers = [losses[task.name] for task in model.config.tasks for _ in task.layers]
    report.close("as_released.embedding_losses", torch.stack(layers), expected["embedding_losses"])
    heads = [p.grad for p in model.predictors.parameters() if p.grad is not None]
    all_zero = not any(bool(gradient.any()) for gradient in heads)
    report.equal("as_released.head_gradients_all_zero", all_zero, expected["head_gradients_all_zero"])


KINDS: dict[str, Check] = {
    "pt_": check_pt,
    "ift_": check_ift,
    "llava15_baseline": check_ift,
    "phi3_sliding_window": check_window,
}
