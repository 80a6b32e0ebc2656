"""Golden parts of VisPer-LM by themselves: resampler, predictors, embedding losses, towers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmcore.parity import Case, Check, Report
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.convnext import ConvNextTower
from mmcore.vision.towers import build_tower
from mmcore.weights.maps import WeightMap
from torch import Tensor, nn

from mmcore_visper import weights
from mmcore_visper.config import TaskConfig, VisperConfig
from mmcore_visper.losses import Candidates, contrastive, embedding_loss, gather_targets
from mmcore_visper.parity.common import CLIP_SIZES, deterministic, limits_of, pixels, unit
from mmcore_visper.predictors import PerceiverAttention, Predictor, Resampler


def check_resampler(case: Case, report: Report) -> None:
    """Given queries in three numbers, learned queries, and the attention alone."""
    sizes = case.data["module_config"]
    task = TaskConfig(
        name="gen",
        num_tokens=sizes["num_queries"],
        output_dim=sizes["output_dim"],
        depth=sizes["depth"],
        dim_head=sizes["dim_head"],
        num_heads=sizes["heads"],
        ff_mult=sizes["ff_mult"],
    )
    given = Resampler(sizes["embedding_dim"], sizes["dim"], task, learned=False)
    learned = Resampler(sizes["embedding_dim"], sizes["dim"], task, learned=True)
    fill(given, "task_token_resampler.", "p.0.resampler.")
    fill(learned, "resampler.", "p.0.resampler.")
    for tag in (name.removeprefix("dlat.") for name in case.tensors if name.startswith("dlat.")):
        _check_queries(case, report, given, tag)
    x = unit(f"{case.name}.x", case.tensors["dx.same"].shape)
    report.close("out.learned_latents", learned(x), case.tensors["out.learned_latents"], **limits_of(case))
    _check_attention(case, report)


def _check_queries(case: Case, report: Report, resampler: Resampler, tag: str) -> None:
    x = unit(f"{case.name}.x", case.tensors[f"dx.{tag}"].shape).requires_grad_()
    queries = unit(f"{case.name}.latents.{tag}", case.tensors[f"dlat.{tag}"].shape).requires_grad_()
    out = resampler(x, queries)
    (out * unit(f"{case.name}.cot.{tag}", out.shape)).sum().backward()
    for name, value in {"out": out, "dx": x.grad, "dlat": queries.grad}.items():
        report.close(f"{name}.{tag}", value, case.tensors[f"{name}.{tag}"], **limits_of(case))


def _check_attention(case: Case, report: Report) -> None:
    described = case.data["inputs"]["perceiver"]
    stored = case.tensors["perceiver"]
    dim, dim_head, heads = (_number(described, name) for name in ("dim", "dim_head", "heads"))
    attention = PerceiverAttention(dim, dim_head, heads)
    fill(attention, "perceiver.", "p.0.resampler.blocks.0.attention.", "layers.0.0.")
    inputs = []
    for name, rows in re.findall(r"unit\('([^']+)', ?\[B, ?(\d+), ?\d+\]\)", described):
        inputs.append(unit(name, (len(stored), int(rows), dim)))
    report.close("perceiver", attention(*inputs), stored, **limits_of(case))


def check_heads(case: Case, report: Report) -> None:
    """Predictors of every task, with given and with learned queries."""
    inputs = {name: _first(text) for name, text in case.data["inputs"].items() if name != "unit"}
    width = case.data["llm_hidden_size"]
    for name, stored in case.tensors.items():
        task, learned = _task_of(name), name.startswith("latent_")
        config = VisperConfig(
            language={"model_type": "llama", "hidden_size": width, "num_hidden_layers": 1},
            tasks=(),
            num_task_tokens=0 if learned else 8,
            use_intermediate_depth=name != "depth_single",
        )
        shape = stored.shape
        rows, channels = (shape[2] * shape[3], shape[1]) if task == "seg" else (shape[-2], shape[-1])
        sizes = TaskConfig(name=task, num_tokens=rows, output_dim=channels, **case.data["head_config"])
        predictor = Predictor(config, sizes)
        fill(predictor, f"{name}.", "p.0.", "")
        queries = None if learned else inputs["gen queries" if task == "gen" else "depth/seg queries"]
        outputs = predictor.outputs(inputs["x"], queries)
        actual = torch.stack(outputs) if task == "depth" else outputs[0]
        report.close(name, actual, stored, **limits_of(case))
        supervised = predictor(inputs["x"], queries)
        report.close(f"{name}.supervised", supervised, stored[0] if task == "depth" else stored, **limits_of(case))
        published = [[key, list(value.shape)] for key, value in _published(predictor, "p.0.", "").items()]
        report.equal(f"{name}.state_keys", sorted(published), sorted(case.data["state_keys"][name]))


def check_emb_loss(case: Case, report: Report) -> None:
    """Smooth L1 and contrast under three masks, without the contrast, and the values per sample."""
    inputs, limits = case.data["inputs"], limits_of(case)
    log_scale = torch.tensor(float(case.data["logit_scale"]), requires_grad=True)
    for key, expected in case.data["outputs"]["[total, smooth_l1, contrastive]"].items():
        layout, kind = key.split(".")
        shape = inputs[layout]
        p = unit(f"{case.name}.p.{layout}", shape).requires_grad_()
        t = unit(f"{case.name}.t.{layout}", shape)
        with_contrast = kind != "no_contrastive"
        parts = embedding_loss(
            p,
            t,
            gather_targets(t) if with_contrast else None,
            log_scale.exp().clamp(max=100),
            weight=case.data["contrastive_loss_weight"],
            has_image=_mask(inputs["masks"], kind, shape[0]),
            outer_product=True,
        )
        values = torch.stack([parts.smooth_l1 + parts.contrastive, parts.smooth_l1, parts.contrastive]) / shape[0]
        report.close(key, values, expected, **limits)
        if f"dp.{key}" in case.tensors:
            log_scale.grad = None
            values[0].backward()
            report.close(f"dp.{key}", p.grad, case.tensors[f"dp.{key}"], **limits)
            report.close(f"ds.{key}", log_scale.grad, case.tensors[f"ds.{key}"], **limits)
    _check_contrast(case, report, log_scale)


def _check_contrast(case: Case, report: Report, log_scale: Tensor) -> None:
    layout = "tokens"
    shape = case.data["inputs"][layout]
    p, t = unit(f"{case.name}.p.{layout}", shape), unit(f"{case.name}.t.{layout}", shape)
    for name, scale in {"contrastive_per_sample": log_scale.exp(), "contrastive_clamped": torch.tensor(100.0)}.items():
        report.close(name, contrastive(p, gather_targets(t), scale), case.tensors[name], **limits_of(case))


def check_ranks(case: Case, report: Report) -> None:
    """The contrast with the targets of two processes, of which the other's are given; the gather has its own test."""
    ranks = sorted({int(name.split(".")[1]) for name in case.tensors})
    shape = [int(size) for size in re.findall(r"\d+", case.data["inputs"]["p"].split("[")[1])]
    targets = [unit(f"{case.name}.t.{rank}", shape) for rank in ranks]
    rows = F.normalize(torch.cat(targets).flatten(1), dim=-1)
    for rank in ranks:
        log_scale = torch.tensor(float(case.data["inputs"]["logit_scale"]), requires_grad=True)
        p = unit(f"{case.name}.p.{rank}", shape).requires_grad_()
        losses = contrastive(p, Candidates(rows, rank * shape[0]), log_scale.exp().clamp(max=100))
        losses.mean().backward()
        for name, value in {"loss": losses, "dp": p.grad, "ds": log_scale.grad}.items():
            report.close(f"{name}.{rank}", value, case.tensors[f"{name}.{rank}"], **limits_of(case))


def check_towers(case: Case, report: Report) -> None:
    """Both vision towers, and the stochastic depth that the published trainer leaves on."""
    clip, trunk = case.data["clip_config"], case.data["convnext_trunk"]
    vit = ClipTower(**{ours: clip[theirs] for theirs, ours in CLIP_SIZES.items() if theirs in clip})
    convnext = ConvNextTower(depths=tuple(trunk["depths"]), dims=tuple(trunk["dims"]), drop_path=0.1)
    step = int(re.findall(r"\d+", case.data["outputs"])[1])
    for name, config in {"vit": vit, "convnext": convnext}.items():
        numbers = [int(number) for number in re.findall(r"\d+", case.data["inputs"][name])]
        tower = build_tower(config).eval()
        names = weights.upstream(VisperConfig(tower=config))
        published = names.to_published({f"tower.{key}": value for key, value in tower.state_dict().items()})
        listed = [[key, list(value.shape)] for key, value in published.items()]
        report.equal(f"{name}.state_keys", sorted(listed), sorted(case.data["state_keys"][name]))
        own = {f"tower.{key}": value for key, value in tower.state_dict().items()}
        values = {key: deterministic(key, tuple(value.shape)) for key, value in published.items()}
        state, _ = names.to_ours(values, own)
        tower.load_state_dict({key.removeprefix("tower."): value for key, value in state.items()})
        with torch.no_grad():
            rows = tower(pixels(numbers[:-1], numbers[-1]))
        report.close(name, rows[:, ::step], case.tensors[name], **limits_of(case))
    _check_drop_path(case, report, build_tower(convnext))


def _check_drop_path(case: Case, report: Report, tower: nn.Module) -> None:
    paths = [module.drop_path for module in tower.modules() if hasattr(module, "drop_path")]
    rates = [float(getattr(path, "drop_prob", 0.0)) for path in paths]
    stored = [float(entry.split(":")[1]) for entry in case.data["convnext_drop_path_in_train_mode"]]
    report.close("convnext_drop_path_in_train_mode", rates, stored, absolute=1e-6)


def fill(module: nn.Module, prefix: str, ours: str, theirs: str = "") -> None:
    """Give a part of a predictor the golden weights of its published names.

    Args:
        module: the part.
        prefix: of the case, before the published names.
        ours: where the part stands in `p.0`, a predictor.
        theirs: where the published part stands in its resampler; cut off.
    """
    names = dict(zip(module.state_dict(), _published(module, ours, theirs), strict=True))
    module.load_state_dict(
        {name: deterministic(prefix + names[name], tuple(t.shape)) for name, t in module.state_dict().items()}
    )


def _published(module: nn.Module, ours: str, theirs: str) -> dict[str, Tensor]:
    """Published names of a part, in the order of its own."""
    names = WeightMap(tuple(weights.predictor_rules("h", "p")))
    inner = "" if ours == "p.0." else "projector."
    result = {}
    for name, tensor in module.state_dict().items():
        (published,) = names.to_published({ours + name: tensor})
        result[published.removeprefix(f"h.0.{inner}{theirs}")] = tensor
    return result


def _task_of(name: str) -> Any:
    return next(task for task in ("depth", "seg", "gen") if task in name)


def _mask(masks: Mapping[str, str], kind: str, count: int) -> Tensor | None:
    """1 where a sample counts, from "ones", "zeros" or a list."""
    said = masks.get(kind, "ones")
    if said.startswith("["):
        return torch.tensor([float(number) for number in re.findall(r"\d+", said)])
    return torch.ones(count) if said == "ones" else torch.zeros(count)


def _first(text: str) -> Tensor:
    name, shape = re.findall(r"unit\('([^']+)', ?\[([\d, ]+)\]\)", text)[0]
    return unit(name, [int(size) for size in shape.split(",")])


def _number(text: str, name: str) -> int:
    found = re.search(rf"\b{name} (\d+)", text)
    assert found is not None, text
    return int(found.group(1))


KINDS: dict[str, Check] = {
    "comp_resampler": check_resampler,
    "comp_heads": check_heads,
    "comp_emb_loss": check_emb_loss,
    "comp_contrastive": check_ranks,
    "comp_towers": check_towers,
}
