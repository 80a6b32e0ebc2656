"""Golden training runs: upstream's trainer for some steps, of which only the order of samples is given.

Reading, tokenising, splicing, losses, parameter groups, optimiser and schedule are ours, through the training engine.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmcore import AdamW, Cosine, Data, Source, Stage
from mmcore.contract.values import MAIN, ConversationSample, Draw
from mmcore.language.conversation import normalise
from mmcore.language.conversation_templates import template
from mmcore.language.labels import encode
from mmcore.language.published import EMBEDDING, OUTPUT
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.train.engine import PlainEngine
from mmcore.train.objective import divisors
from mmcore.train.optim import freeze, parameter_groups
from mmcore.train.schedule import factor
from torch import Tensor, nn

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.parity.common import config_of, limits_of, model_of, picture
from mmcore_griffon.parity.training import TRAINED

EXACT = 1e-9
"""Absolute difference of learning rates that counts as equal."""
ROUNDING = 1e-6
"""Gradients that never reach this share of the largest are zero but for rounding: AdamW makes steps of full size of
them, in directions that mean nothing."""
KEY_BIAS = re.compile(r"(vision_tower|prompt_visual_encoder)\..*self_attn\.k_proj\.bias$")
"""The only parameters of which that is so by their nature: of a tower's attention without rotary positions, a key bias
adds the same to every score of a query, and softmax does not see it. Language models' are rotated, and are compared."""


def check_run(case: Case, report: Report) -> None:
    """Losses, rates, groups, and the weights that they lead to."""
    config, given = config_of(case), case.data
    config = config.replace(max_length=given["tokenizer_max_length"])
    stage, arguments = _stage(case), given["arguments"]
    model = model_of(config)
    freeze(model, stage)
    _check_groups(case, report, model, stage)
    before = {name: tensor.clone() for name, tensor in _published(model).items()}
    engine = PlainEngine(model, stage, torch.device("cpu"))
    samples = _samples(case, config)
    size, turns = arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]
    order = given["access_order"]
    micro_batches = [order[start : start + size] for start in range(0, len(order), size)]
    report.equal("global_steps", min(len(micro_batches) // turns, given["max_steps_planned"]), given["global_steps"])
    collate = config.collator(config.processor(None))
    shares: dict[str, float] = {}
    for i, entry in enumerate(given["history"]):
        chosen = micro_batches[i * turns : (i + 1) * turns]
        loss = _step(engine, [collate([samples[k] for k in numbers], 0) for numbers in chosen], stage, i, shares)
        report.close(f"loss {i + 1}", loss, entry["loss"], **limits_of(case, "history"))
        rate = _first_rate(case) * factor(stage.schedule, i + 1, stage.steps or 1)
        report.close(f"learning_rate {i + 1}", rate, entry["learning_rate"], absolute=EXACT)
    _check_after(case, report, model, before, {name for name, share in shares.items() if share < ROUNDING})


def _stage(case: Case) -> Stage:
    """The run as a recipe; upstream's rate of the projector, where there is one, has the tower's ignored."""
    arguments, groups = case.data["arguments"], case.data["optimizer_groups"]
    projector_only = all("mm_projector" in name for group in groups for name in group["names"])
    rate, multipliers = arguments["learning_rate"], dict[str, float]()
    if "mm_projector_lr" in arguments:
        multipliers["projector"] = arguments["mm_projector_lr"] / rate
    elif "mm_vision_tower_lr" in arguments:
        multipliers["tower"] = arguments["mm_vision_tower_lr"] / rate
    size = arguments["per_device_train_batch_size"]
    trained = tuple(part for part in TRAINED["projector" if projector_only else "all"] if not part.startswith("region"))
    return Stage(
        number=1,
        name="golden",
        title=case.data["what"],
        origin=case.name,
        steps=case.data["max_steps_planned"],
        global_batch=size * arguments["gradient_accumulation_steps"],
        micro_batch=size,
        data=Data(sources={"samples": Source(weight=1.0, format="LLaVA JSON")}),
        optim=AdamW(lr=rate, weight_decay=arguments["weight_decay"], multipliers=multipliers),
        schedule=Cosine(warmup_ratio=arguments["warmup_ratio"]),
        normalise="process",
        precision="fp32",
        trainable=trained,
    )


def _samples(case: Case, config: GriffonConfig) -> list[ConversationSample]:
    """The case's records as a stage reads them."""
    style = template(case.data["version"])
    tokenizer = load_tokenizer(case.folder / "tokenizer", template=style, pad="unknown")
    samples = []
    for number, record in enumerate(case.data["samples"]):
        seen = record["image"] is not None
        turns = normalise([{"from": who, "value": text} for who, text in record["turns"]], has_image=seen)
        images = {MAIN: (picture(record["image"], config.pixels(config.image_size)),)} if seen else {}
        encoded = encode(turns, style, tokenizer, config.max_length, has_image=seen)
        samples.append(ConversationSample(encoded, turns, images, Draw(case.name, number, 0), number, (0, 0)))
    return samples


def _step(engine: PlainEngine, batches: list[Any], stage: Stage, i: int, largest: dict[str, float]) -> float:
    """One optimiser step; `largest` keeps by name the largest share a gradient had of the largest."""
    shares = divisors([[batch.normalisers for batch in batches]], stage.normalise)
    losses = []
    for batch, share in zip(batches, shares, strict=True):
        losses.append(engine.forward(batch, share))
        engine.backward(losses[-1])
    value, _ = engine.health(torch.stack([loss.detach() for loss in losses]).sum())
    norms = {name: float(p.grad.norm()) for name, p in engine.model.named_parameters() if p.grad is not None}
    for name, norm in norms.items():
        largest[name] = max(largest.get(name, 0.0), norm / max(norms.values()))
    engine.step(factor(stage.schedule, i, stage.steps or 1))
    return value


def _first_rate(case: Case) -> float:
    return case.data["optimizer_groups"][0]["base_lr"]


def _published(model: Griffon) -> dict[str, Tensor]:
    found = model.published().to_published(model.state_dict())
    return found | ({OUTPUT: found[EMBEDDING]} if model.language.tied else {})


def _check_groups(case: Case, report: Report, model: Griffon, stage: Stage) -> None:
    """Which parameters have which rate; upstream splits every group by whether it would decay, at a decay of zero."""
    modules = dict(model.named_modules())
    own = dict(model.named_parameters())
    found: dict[tuple[float, bool], list[str]] = {}
    for group in parameter_groups(model, stage):
        for name in group["names"]:
            kind = modules[name.rpartition(".")[0]]
            plain = isinstance(kind, nn.LayerNorm) or type(kind).__name__ == "LlamaRMSNorm" or "bias" in name
            (published,) = model.published().to_published({name: own[name]})
            found.setdefault((round(group["lr"], 12), not plain), []).append(published)
    wanted = case.data["optimizer_groups"]
    pairs = [(one["base_lr"], number % 2 == 0) for number, one in enumerate(wanted)]
    report.equal("groups", sorted(found), sorted(pairs))
    for one, key in zip(wanted, pairs, strict=True):
        label = f"group of rate {key[0]:g} {'with' if key[1] else 'without'} decay"
        report.equal(label, sorted(found.get(key, [])), sorted(one["names"]))
        report.equal(f"{label}: count", len(found.get(key, [])), one["count"])
        numbers = (stage.optim.weight_decay, list(stage.optim.betas), stage.optim.eps)
        report.equal(f"{label}: numbers", numbers, (one["weight_decay"], one["betas"], one["eps"]))


def _check_after(case: Case, report: Report, model: Griffon, before: Mapping[str, Tensor], noise: set[str]) -> None:
    """How far every parameter went; of those that only rounding moved, that it was no further than AdamW can go."""
    after, wanted = _published(model), case.data["delta_norms"]
    deltas = {name: float((after[name] - before[name]).norm()) for name in after}
    own = dict(model.named_parameters())
    moved_by_noise = model.published().to_published({name: own[name] for name in noise})
    rates = sum(entry["learning_rate"] for entry in case.data["history"])
    others = sorted(name for name in wanted if name in moved_by_noise and not KEY_BIAS.search(name))
    report.equal("moved by rounding, and no key bias", others, [])
    for name, norm in wanted.items():
        if name in moved_by_noise:
            furthest = rates * after[name].numel() ** 0.5
            far = max(deltas[name], norm)  # published code moves them no further either
            report.add(f"delta {name}", far, furthest, far <= furthest, "rounding only")
        else:
            report.close(f"delta {name}", deltas.get(name, torch.nan), norm, **limits_of(case, "delta_norms"))
    still = sorted(name for name, delta in deltas.items() if delta and name not in wanted)
    report.equal("nothing else moved", still, [])
    for name in case.tensors:
        if name.startswith("after."):
            report.close(name, after[name[6:]], case.tensors[name], **limits_of(case, "after"))


KINDS: dict[str, Check] = {"train_": check_run}
