"""Golden training runs: steps of the recipes through the training engine, and upstream's own training functions.

Of the latter the order of samples is given; reading, tokenising, splicing, losses, optimiser and schedule are ours.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmcore import Cosine, Stage
from mmcore.contract.values import MAIN, ConversationSample, Draw
from mmcore.data.formats.llava import LlavaIndex
from mmcore.language.batch import ConversationBatch
from mmcore.language.collate import ConversationCollator
from mmcore.language.conversation_templates import template
from mmcore.language.processor import Processor
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.train.engine import PlainEngine
from mmcore.train.objective import divisors
from mmcore.train.optim import freeze
from mmcore.train.schedule import factor
from mmcore.vision.clip_images import ClipImages
from torch import Tensor, nn

from mmcore_visper.config import VisperConfig
from mmcore_visper.losses import embedding_loss, gather_targets
from mmcore_visper.model import Visper
from mmcore_visper.parity.common import (
    close_all,
    config_of,
    encoded_rows,
    limits_of,
    make_batch,
    model_of,
    pixels,
)
from mmcore_visper.parity.training import from_description
from mmcore_visper.recipes import stages

EXACT = 1e-9
"""Absolute difference of learning rates that counts as equal."""
LAYER_ORDER = ("depth", "seg", "gen")
"""The order in which the published forward asks its predictors."""
CLASSES = {"pt": "ola_llama", "ift": "llava_llama"}


def check_steps(case: Case, report: Report) -> None:
    """Optimiser steps on alternating batches: losses, rates, and the parameters they lead to."""
    config = config_of(case)
    history = case.data["outputs"]["history"]
    stage = _recipe("pt", len(history), Cosine(warmup_steps=1), batch=2)
    batches = list(_alternating(case, config))
    engine = _engine(case, config, stage)
    losses = []
    for i, entry in enumerate(history):
        losses.append(_step(engine, batches[i % len(batches)], stage, i))
        report.close(
            f"step{i}.lr", stage.optim.lr * factor(stage.schedule, i, len(history)), entry["lr"], absolute=EXACT
        )
        report.close(f"step{i}.loss", losses[-1], entry["loss"], **limits_of(case))
    report.close("loss_curve", torch.tensor(losses), case.tensors["loss_curve"], **limits_of(case))
    report.covers(*(name for name in case.tensors if name.startswith("labels.")))  # inputs
    _check_after(case, report, engine)


def _alternating(case: Case, config: VisperConfig) -> Iterator[ConversationBatch]:
    for number in sorted(int(name.split(".")[1]) for name in case.tensors if name.startswith("input_ids.")):
        ids, labels = case.tensors[f"input_ids.{number}"], case.tensors[f"labels.{number}"]
        rows = encoded_rows(ids, labels, ids != int(case.data["config"]["pad_token_id"]))
        images = pixels(case.data["inputs"]["image_seeds"], config.image_size)
        targets = {
            task: from_description(text.replace("[B", f"[{len(rows)}"), **{"<batch>": str(number)})
            for task, text in case.data["inputs"]["targets"].items()
        }
        yield make_batch(case, config, rows, images, targets)


def check_run(case: Case, report: Report) -> None:
    """A whole training call: what trains, every loss, the first gradient, rates, and the parameters at the end."""
    name = case.data["stage"]
    config = config_of(case, CLASSES[name], max_length=int(_flag(case, "model_max_length")))
    order = case.tensors["order"].tolist()
    schedule = Cosine(warmup_ratio=float(_flag(case, "warmup_ratio")))
    stage = _recipe(name, len(order), schedule, batch=int(_flag(case, "per_device_train_batch_size")))
    stage = stage.replace(optim=stage.optim.replace(lr=float(_flag(case, "learning_rate"))))
    engine = _engine(case, config, stage)
    model = engine.model
    assert isinstance(model, Visper)
    _check_trained(case, report, model)
    samples = _samples(case, config)
    losses, rates, calls = [], [], []
    for i, chosen in enumerate(order):
        batch = ConversationCollator(config.expansion, config.image_size, config.max_length)(
            [samples[k] for k in chosen], 0
        )
        calls += _embedding_calls(model, batch)
        rates.append(stage.optim.lr * factor(stage.schedule, i, len(order)))
        losses.append(_step(engine, batch, stage, i))
        if i == 0:
            report.close(
                "first_grad_norm", engine.grad_norm(), case.data["outputs"]["first_grad_norm"], **limits_of(case)
            )
    outputs = case.data["outputs"]
    report.equal("order", order, outputs["order"])
    for key, stored in (("losses", "losses"), ("lrs", "learning_rates")):
        limits = limits_of(case) if key == "losses" else {"absolute": EXACT}
        values = losses if key == "losses" else rates
        report.close(f"outputs.{stored}", torch.tensor(values), outputs[stored], **limits)
        report.close(key, torch.tensor(values), case.tensors[key], **limits)
    if (expected := outputs["embedding_losses_[total,smooth_l1,contrastive]_per_call"]) is not None:
        report.close("embedding losses per call", calls, expected, **limits_of(case))
    _check_after(case, report, engine)


def _samples(case: Case, config: VisperConfig) -> list[ConversationSample]:
    """The case's records as the stage reads them, each with the targets of its place in the file."""
    style = template(_flag(case, "version"))
    tokenizer = load_tokenizer(case.folder / case.data["tokenizer"].split(" ")[0], template=style)
    rows = sum(count for _, count in next(iter(config.expansion.values())))
    clip = ClipImages(config.image_size, config.image_aspect)
    reading = Processor(style, tokenizer, clip, config.max_length, rows)
    with TemporaryDirectory() as cache:
        index = LlavaIndex.open(case.folder / case.data["files"]["annotations"], Path(cache))
        records = [index[position] for position in range(len(index))]
    images = case.folder / case.data["files"]["images"].split("/*")[0]
    samples = []
    for number, record in enumerate(records):
        has_image = record.image is not None
        turns = record.turns()
        samples.append(
            ConversationSample(
                encoded=reading.conversation(turns, has_image=has_image, where=record.where),
                turns=turns,
                images={MAIN: (reading.tower(record.read_image(images)),)} if has_image else {},
                draw=Draw(case.name, number, 0),
                image_id=record.image,
                record_id=record.id,
                original_size=(0, 0),
                features=_targets(case, number) if case.data["targets"] and has_image else {},
            )
        )
    return samples


def _targets(case: Case, number: int) -> dict[str, Tensor]:
    """Described as `unit('....<i>',[shape])`, separated by commas."""
    described: str = case.data["targets"].replace("<i>", str(number))
    parts = [f"unit({part}" for part in described.split("unit(")[1:]]
    return {part.split(".target.")[1].split(".")[0]: from_description(part) for part in parts}


def _embedding_calls(model: Visper, batch: ConversationBatch) -> list[list[float]]:
    """Total, distance and contrast of every predictor, as the published forward calls them."""
    if not model.predictors:
        return []
    with torch.no_grad():
        hidden, queries = model.forward_hidden(batch, model.layers_read)
        predictions = model.predict_features(batch, hidden, queries)
        scales = model.logit_scales() if model.logit_scales is not None else {}
        calls = []
        for task in LAYER_ORDER:
            target = batch.features.get(task)
            for prediction in predictions.get(task, ()):
                assert target is not None
                loss = embedding_loss(
                    prediction,
                    target,
                    gather_targets(target) if scales else None,
                    scales.get(task),
                    weight=model.config.contrastive_weight,
                )
                values = torch.stack([loss.smooth_l1 + loss.contrastive, loss.smooth_l1, loss.contrastive])
                calls.append((values / len(batch)).tolist())
    return calls


def _check_trained(case: Case, report: Report, model: Visper) -> None:
    """What trains, and the sizes of the published groups with and without decay (which is zero)."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    published = sorted(model.published().to_published(trained))
    outputs = case.data["outputs"]
    report.equal("trainable", published, sorted(outputs["trainable"]))
    norms = {
        f"{owner}.{leaf}"
        for owner, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__
        for leaf, _ in module.named_parameters(recurse=False)
    }
    undecayed = sum(name in norms or "bias" in name for name in trained)
    report.equal("optimizer_group_sizes", [len(trained) - undecayed, undecayed], outputs["optimizer_group_sizes"])


def _check_after(case: Case, report: Report, engine: PlainEngine) -> None:
    model = engine.model
    assert isinstance(model, Visper)
    own: Mapping[str, Tensor] = {f"after.{n}": t for n, t in model.published().to_published(model.state_dict()).items()}
    stored = {name: tensor for name, tensor in case.tensors.items() if name.startswith("after.")}
    close_all(report, own, stored, **limits_of(case))


def _engine(case: Case, config: VisperConfig, stage: Stage) -> PlainEngine:
    model = model_of(case, config)
    freeze(model, stage)
    return PlainEngine(model, stage, torch.device("cpu"))


def _step(engine: PlainEngine, batch: ConversationBatch, stage: Stage, i: int) -> float:
    total = engine.forward(batch, divisors([[batch.normalisers]], stage.normalise)[0])
    engine.backward(total)
    value, _ = engine.health(total.detach())
    engine.step(factor(stage.schedule, i, stage.steps or 1))
    return value


def _recipe(name: str, steps: int, schedule: Cosine, batch: int) -> Stage:
    """The published recipe for a few float32 steps of one small batch."""
    stage = next(stage for stage in stages("llama3-vit") if stage.name == name)
    return stage.replace(
        steps=steps, epochs=None, schedule=schedule, global_batch=batch, micro_batch=batch, precision="fp32"
    )


def _flag(case: Case, name: str) -> Any:
    """A command line flag of the published script."""
    flags = case.data["flags"]
    return flags[flags.index(f"--{name}") + 1]


KINDS: dict[str, Check] = {"pt_steps": check_steps, "train_": check_run}
