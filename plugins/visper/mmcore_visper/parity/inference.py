"""Inference: greedy answers of both classes, with images and without, and what the predictors see in a prompt."""

from collections.abc import Sequence

import torch
from mmcore.language.batch import ConversationBatch
from mmcore.language.generate import Generated, Stop, generate
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_visper.config import VisperConfig
from mmcore_visper.interpret import interpret
from mmcore_visper.model import Visper
from mmcore_visper.parity.common import config_of, limits_of, make_batch, model_of, pixels
from mmcore_visper.parity.export import language_of

CLASSES = {"pt": "ola", "ift": "llava"}
"""Prefix of a case's quantities and of the published class that gave them."""
ROWS, CELLS, PIXELS = 64, 6, 28
"""Of predicted depth every 64th row is stored, of maps every 6th cell, of depth pictures every 28th pixel."""


def infer(case: Case, report: Report) -> None:
    """Each prompt alone, all prompts in one batch, and the predictors' outputs for the first."""
    for prefix, published in CLASSES.items():
        config = config_of(
            case,
            kind=f"{published}_{language_of(case)}",
            published={"prompt_tokens": case.data["num_sys_tokens"]},  # its slices count on it whatever the prompt
        )
        model = model_of(case, config)
        names = [name.removeprefix("prompt.") for name in case.tensors if name.startswith("prompt.")]
        for name in names:
            _compare(case, report, prefix, name, answer(case, model, [name]))
        together = answer(case, model, names)
        for row, name in enumerate(names):
            wanted = case.tensors[f"{prefix}.{name}.output_ids"]
            report.equal(f"{prefix}.{name}.output_ids, all prompts in one batch", together.ids[row], wanted)
        if model.predictors:
            _interpretation(case, report, model)
    report.covers(*(name for name in case.tensors if name.startswith("prompt.")))


def answer(case: Case, model: Visper, names: Sequence[str]) -> Generated:
    """The continuation of some of the case's prompts."""
    batch, given = prompts(case, model.config, names), case.data["generation"]
    with torch.no_grad():
        embeds = model.language.embed(batch.sequences, model.spliced(batch))
    return generate(
        model.language,
        embeds,
        batch.sequences,
        max_new_tokens=given["max_new_tokens"],
        stop=Stop(ids=(given["eos_token_id"],)),
        padding=given["pad_token_id"],
        keep_logits=True,
    )


def prompts(case: Case, config: VisperConfig, names: Sequence[str]) -> ConversationBatch:
    """Some of the case's prompts; the one called by a number has the picture of this number."""
    rows = [case.tensors[f"prompt.{name}"].numpy() for name in names]
    seeds = [
        case.data["inputs"]["image_seeds"][int(name)]
        for name, ids in zip(names, rows, strict=True)
        if (ids == IMAGE).any()
    ]
    encoded = [Encoded(ids, ids * 0 + IGNORE) for ids in rows]
    return make_batch(case, config, encoded, pixels(seeds, config.image_size))


def _compare(case: Case, report: Report, prefix: str, name: str, found: Generated) -> None:
    assert found.logits is not None
    report.equal(f"{prefix}.{name}.output_ids", found.ids[0], case.tensors[f"{prefix}.{name}.output_ids"])
    if (logits := f"{prefix}.{name}.logits") in case.tensors:
        report.close(logits, found.logits[0], case.tensors[logits], **limits_of(case))
    if (margin := f"{prefix}.{name}.min_top2_margin") in case.data["outputs"]:
        best = found.logits[0].topk(2).values
        report.close(margin, (best[:, 0] - best[:, 1]).min(), case.data["outputs"][margin], **limits_of(case))


def _interpretation(case: Case, report: Report, model: Visper) -> None:
    """The predictors read the hidden states of the first prompt; results are numbered by layer."""
    seen = interpret(model, prompts(case, model.config, ["0"]))
    found: dict[str, Tensor] = {}
    for task, layers in seen.outputs.items():
        for number, outputs in enumerate(layers.values()):
            found[f"interp.{task}.{number}"] = _stored(task, outputs)
    for number, picture in enumerate(seen.depth_maps.values()):
        found[f"interp.depth_map.{number}"] = picture[..., ::PIXELS, ::PIXELS]
    for name in case.tensors:
        if name.startswith("interp."):
            report.close(name, found.get(name, torch.nan), case.tensors[name], **limits_of(case))


def _stored(task: str, outputs: Sequence[Tensor]) -> Tensor:
    match task:
        case "depth":
            return torch.stack(list(outputs))[:, :, ::ROWS]
        case "seg":
            return outputs[0][..., ::CELLS, ::CELLS]
        case _:
            return outputs[0]


KINDS: dict[str, Check] = {"infer_": infer}
