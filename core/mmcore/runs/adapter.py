"""The adapters of a run alone, in a folder that plain peft opens: a few megabytes instead of the whole model.

Where all adapters lie in one part of the model (the language model, mostly), names are those inside that part, so that
the folder fits the published language model itself.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from mmcore.contract.recipe import Lora, Stage
from mmcore.errors import UsageError
from mmcore.train.lora import ADAPTER, is_adapter
from mmcore.train.optim import freeze
from mmcore.weights.files import write_safetensors

BESIDE = "trained_beside"
"""Folder of what was trained beside the adapters, under our names."""


def write_adapter(model: nn.Module, stage: Stage, folder: Path, metadata: Mapping[str, str]) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors`, and whole parts that were trained beside them.

    Args:
        model: with its adapters.
        stage: of the run.
        folder: empty.
        metadata: for the headers of the files.

    Returns:
        What the card says on their use.
    Raises:
        UsageError: the run has no adapters.
    """
    if stage.lora is None:
        raise UsageError(
            "this run has no adapters",
            where="--format adapter",
            do="export it with --format hf, or train with --set lora={}",
        )
    freeze(model, stage)
    trained = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name: tensor for name, tensor in trained.items() if is_adapter(name)}
    beside = {name: tensor for name, tensor in trained.items() if name not in adapters}
    part = _only_part(adapters)
    inner = {name.removeprefix(part).replace(f".{ADAPTER}.", "."): tensor for name, tensor in adapters.items()}
    write_safetensors({f"base_model.model.{name}": tensor for name, tensor in inner.items()}, folder, 1 << 40, metadata)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    layers = sorted({name.partition(".lora_")[0] for name in inner})
    (folder / "adapter_config.json").write_text(json.dumps(_config(stage.lora, layers), indent=2) + "\n")
    if beside:
        (folder / BESIDE).mkdir()
        write_safetensors(beside, folder / BESIDE, 1 << 40, metadata)
    return _use(part.rstrip("."), sorted({name.split(".")[0] for name in beside}))


def _only_part(adapters: Mapping[str, Tensor]) -> str:
    """The first name, with its dot, that all adapters share and that another model would not have; else nothing."""
    firsts = {name.split(".")[0] for name in adapters}
    return f"{firsts.pop()}." if len(firsts) == 1 else ""


def _config(lora: Lora, layers: Sequence[str]) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.scale * lora.rank,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": list(layers),
        "inference_mode": True,
        "base_model_name_or_path": None,
    }


def _use(part: str, beside: Sequence[str]) -> str:
    base = f"the part `{part}` of the model" if part else "the whole model"
    text = f"\n## Use\n\nLoRA adapters of {base}:\n\n```python\nPeftModel.from_pretrained(base_model, FOLDER)\n```\n"
    if beside:
        text += f"\nTrained beside them and needed too, in `{BESIDE}/`: {', '.join(beside)}.\n"
    return text
