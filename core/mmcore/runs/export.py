"""From a trained run to weights that others use: safetensors with published names or ours, a config and a card.

`upstream` writes the published names, so the original code and its tools read the tensors. `hf` writes a folder that
`mmcore.runs.opened.from_pretrained` opens without the run; a family that transformers knows writes one
that plain transformers opens, by `Model.export_hf`. Both get the weights as they would be without
adapters, which are folded in.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcore.errors import CheckpointError, UsageError
from mmcore.runs.adapter import write_adapter
from mmcore.runs.card import write_card
from mmcore.runs.config import to_tree
from mmcore.runs.opened import CONFIG, OpenedModel
from mmcore.version import __version__
from mmcore.weights.files import write_safetensors


def export(
    opened: OpenedModel,
    format: str,
    out: Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    pth: bool = False,
    precision: str | None = None,
    licence: str | None = None,
) -> list[Path]:
    """Write a trained model into a new folder; nothing is left behind when it fails.

    Args:
        opened: the model, with adapters still apart; it is left as it is.
        format: "upstream", "hf", "adapter" (the LoRA adapters alone) or another that the family's `published` knows.
        out: a folder that does not exist yet, or is empty.
        max_shard_bytes: largest size of one file.
        pth: also write one `.pth` of plain tensors, which the published code's own loader takes.
        precision: "fp32", "bf16" or "fp16"; None keeps that of the weights.
        licence: for the card, an identifier of the Hub such as "apache-2.0".

    Returns:
        Every file, in the order of writing.

    Raises:
        UsageError: `out` holds something.
        WeightsError: the family has no such format.
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", where=f"--out {out}", do="choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        _write(opened, format, scratch, max_shard_bytes, pth, precision, licence)
        _readable(scratch)
        if out.exists():
            out.rmdir()
        scratch.replace(out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(path for path in out.rglob("*") if path.is_file())


def _unwritable(out: Path, error: OSError) -> CheckpointError:
    do = "free space, check the folder's permissions, or choose another --out"
    return CheckpointError(f"cannot write the export: {error.strerror or error}", where=out, do=do)


def _readable(folder: Path) -> None:
    """Everybody may read an export, whatever made its files: a server often runs as somebody else."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write(
    opened: OpenedModel,
    format: str,
    folder: Path,
    max_shard_bytes: int,
    pth: bool,
    precision: str | None,
    licence: str | None,
) -> None:
    metadata = {"mmcore": __version__, "plugin": opened.settings.plugin, "variant": opened.settings.variant}
    if format == "adapter":
        use = write_adapter(opened.model, opened.settings.stage, folder, metadata)
        write_card(opened, folder, "peft's names, format `adapter`", use=use, licence=licence, opens=False)
        return
    state = _state(opened, precision)
    use = opened.model.export_hf(folder, state, max_shard_bytes) if format == "hf" else None
    plain = opened.model.plain_config() if format == "hf" and use is None else None
    if use is None:
        if format != "hf":
            published = opened.model.published(format).to_published(state)
            state = dict(opened.model.export_tensors(published, format, precision))
        elif plain:
            state = opened.model.published("upstream").to_published(state)
        write_safetensors(state, folder, max_shard_bytes, metadata)
        if pth:
            _write_pth(state, folder / "model.pth")
        if format == "hf":
            (folder / CONFIG).write_text(json.dumps(_config(opened, plain), indent=2) + "\n")
        opened.model.export_files(folder, format)
    whose = "transformers'" if use is not None else "mmcore's" if format == "hf" and not plain else "published"
    told = f"{whose} names, format `{format}`"
    write_card(opened, folder, told, use=use, licence=licence, opens=format == "hf")


def _state(opened: OpenedModel, precision: str | None) -> dict[str, Any]:
    """Our names and values, as they would be without adapters."""
    state: dict[str, Any] = {name: tensor.detach() for name, tensor in opened.model.state_dict().items()}
    if opened.settings.stage.lora is not None:
        from mmcore.train.lora import fold

        state = fold(state, opened.settings.stage.lora)
    if precision is None:
        return state
    import torch

    from mmcore.train.objective import DTYPES

    wanted = DTYPES[precision] or torch.float32
    return {name: tensor.to(wanted) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _write_pth(state: Mapping[str, Any], path: Path) -> None:
    import torch

    torch.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)


def _config(opened: OpenedModel, plain: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        **(plain or {"model_type": f"mmcore-{opened.settings.plugin}"}),
        "mmcore": {
            "names": "published" if plain else "own",
            "version": __version__,
            "plugin": opened.settings.plugin,
            "plugin_version": opened.family.plugin.version,
            "variant": opened.settings.variant,
            "step": opened.step,
            "stage": to_tree(opened.settings.stage.replace(lora=None)),  # adapters are folded in
        },
    }
