"""Files and folders that are taken for weights and are something else: each is named for what it is.

A download gives a web page, Git leaves a pointer, a trainer its shards, an adapter its few matrices; torch and
safetensors only say that they cannot read them.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from mmcore.base.jsonfile import read_json
from mmcore.errors import MissingDataError, WeightsError

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<!--")
_OTHER = {
    ".gguf": ("llama.cpp's quantised weights", "fetch the safetensors of the same model"),
    ".ggml": ("llama.cpp's quantised weights", "fetch the safetensors of the same model"),
    ".onnx": ("a graph for inference", "fetch the weights that it was made of"),
    ".h5": ("Keras weights", "fetch model.safetensors or pytorch_model.bin of the same model"),
    ".msgpack": ("Flax weights", "fetch model.safetensors or pytorch_model.bin of the same model"),
    ".pkl": ("a pickle, which may hold any code", "convert it to safetensors on a machine where you trust it"),
    ".pickle": ("a pickle, which may hold any code", "convert it to safetensors on a machine where you trust it"),
    ".npz": ("NumPy arrays", "write them with safetensors.numpy.save_file"),
    ".zip": ("an archive", "unpack it and give the file inside"),
    ".gz": ("an archive", "unpack it and give the file inside"),
    ".tar": ("an archive", "unpack it and give the file inside"),
}
"""What files with these endings are, and what to do."""
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.(safetensors|bin)")
ADAPTER = "adapter_config.json"


def refuse_mistaken(path: Path) -> None:
    """Refuse a file that is no weights by its first bytes or its ending.

    Raises:
        WeightsError: says what it is.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise WeightsError("the file is empty", where=path, do="fetch it again from its source")
    if head.startswith(_POINTER):
        size = re.search(rb"\nsize (\d+)", head)
        weighs = f" of {int(size[1]):,} bytes" if size else ""
        raise WeightsError(
            f"a Git LFS pointer, not the file{weighs} that it stands for",
            where=path,
            do="run `git lfs pull` in that repository, or download the file itself",
        )
    if head.lstrip().lower().startswith(_PAGE):
        raise WeightsError(
            "a web page, not weights: the download was answered with a login, licence or error page",
            where=path,
            do="open the address in a browser, and download the file that is meant",
        )
    if path.suffix in _OTHER:
        what, remedy = _OTHER[path.suffix]
        raise WeightsError(f"this is {what}, not a checkpoint that can be read", where=path, do=remedy)


def refuse_mistaken_folder(folder: Path) -> None:
    """Refuse a folder that holds no whole weights but something else of a training.

    Raises:
        WeightsError: says what it holds and how weights are made of it.
    """
    if (folder / ADAPTER).is_file():
        raise adapter_error(folder, _base_of(folder))
    if (folder / "zero_to_fp32.py").exists() or any(folder.glob("global_step*")) or any(folder.glob("*optim_states*")):
        raise WeightsError(
            "this folder holds the shards of DeepSpeed's ZeRO, and no whole weights",
            where=folder,
            do=f"join them with `python {folder / 'zero_to_fp32.py'} {folder} WHOLE`, then give that folder",
        )
    if any(folder.glob("*.distcp")):
        raise WeightsError(
            "this folder holds the shards of torch's distributed checkpoints, and no whole weights",
            where=folder,
            do=f"join them with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} WHOLE.pth`",
        )
    others = sorted(path for path in folder.iterdir() if path.suffix in _OTHER)
    if others:
        refuse_mistaken(others[0])


def adapter_error(where: Path, base: str | None = None) -> WeightsError:
    """The error for adapters where a model is meant."""
    of = f" for {base}" if base else ""
    return WeightsError(
        f"this is a LoRA adapter{of}, not a model: it holds what is added to the weights of its base",
        where=where,
        do="merge it into its base first (peft: PeftModel.from_pretrained(base, adapter).merge_and_unload()"
        ".save_pretrained(DIR); of a run of mmcore: `mmcore export RUN`), then give that folder",
    )


def is_adapter(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of adapters without the weights that they are added to.

    Trainers that wrap a model's layers in place (peft 0.5) save both side by side; a family may fold those together.
    """
    known = set(names)
    marks = (".lora_A.", ".lora_B.", ".lora_magnitude_vector")
    layers = {name.split(mark)[0] for name in known for mark in marks if mark in name}
    return any(f"{layer}.weight" not in known for layer in layers)


def shards_without_index(files: list[Path], folder: Path) -> list[Path] | None:
    """The files of one sharded checkpoint whose index is not there; None where they are something else.

    Raises:
        WeightsError: one of them is missing.
    """
    found = [(path, match) for path in files if (match := _SHARD.fullmatch(path.name))]
    sets = {(match[1], int(match[3]), match[4]) for _, match in found}
    if not found or len(found) != len(files) or len(sets) != 1:
        return None
    ((_, count, _),) = sets
    there = {int(match[2]) for _, match in found}
    lacking = [number for number in range(1, count + 1) if number not in there]
    if lacking:
        raise WeightsError(
            f"{len(lacking)} of {count} parts of this checkpoint are missing, the first is number {lacking[0]}",
            where=folder,
            do="fetch all parts and the index that stands beside them",
        )
    return [path for path, _ in found]


def nothing_in(folder: Path) -> MissingDataError:
    """The error for a folder without any weights."""
    held = sorted(path.name for path in folder.iterdir())[:12]
    return MissingDataError(
        "no weights in this folder",
        where=folder,
        known=[f"it holds {name}" for name in held] or "it is empty",
        do="give the folder that holds model.safetensors or pytorch_model.bin, or a file",
    )


def _base_of(folder: Path) -> str | None:
    try:
        return str(read_json(folder / ADAPTER, {"base_model_name_or_path": str})["base_model_name_or_path"])
    except (OSError, ValueError):
        return None
