"""Checkpoint files: read without ever running code from them, written as sharded safetensors.

Read are safetensors, and what `torch.save` wrote through `torch.load(weights_only=True)`, flat or nested, sharded or
in folders.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore.base.files import READABLE, sync_file
from mmcore.base.jsonfile import read_json
from mmcore.base.terminal import tell
from mmcore.errors import CheckpointError, MissingDataError, UnsafeDataError, WeightsError, some
from mmcore.weights.mistaken import (
    ADAPTER,
    adapter_error,
    is_adapter,
    nothing_in,
    refuse_mistaken,
    refuse_mistaken_folder,
    shards_without_index,
)
from mmcore.weights.wrapped import without_wrappers

if TYPE_CHECKING:
    from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"
_NESTED_UNDER = ("model", "state_dict", "module", "model_state_dict")
_TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".th")


def read_tensors(path: str | Path) -> "dict[str, Tensor]":
    """Every tensor of a checkpoint, on the CPU and memory-mapped where the format allows.

    Takes safetensors (one file, or sharded with an index), `.bin`, `.pth` and `.pt` files written by `torch.save`
    (flat, or nested under "model", "state_dict" or "module"), and folders that hold one of these.

    Raises:
        MissingDataError: there is nothing at `path`.
        WeightsError: it is not a checkpoint, is damaged, or would have to run code to be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise MissingDataError("no checkpoint here", where=path, do="give a file or a folder that holds weights")
    if not path.is_file():
        raise UnsafeDataError("not a regular file: a pipe or a device is never opened", where=path)
    refuse_mistaken(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _named(_read_safetensors(path), path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise WeightsError(
        f"{path.suffix or 'this file'} is not a checkpoint format",
        where=path,
        known=[".safetensors", *_TORCH_SUFFIXES, "a folder that holds one of these"],
    )


def _named(tensors: "Mapping[str, Tensor]", path: Path) -> "dict[str, Tensor]":
    """The tensors under the model's own names; adapters are no model."""
    if is_adapter(tensors):
        raise adapter_error(path)
    return without_wrappers(tensors)


def _read_folder(folder: Path) -> "dict[str, Tensor]":
    for name in (INDEX_FILE, "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"):
        if (folder / name).exists():
            return read_tensors(folder / name)
    files = sorted(f for suffix in (".safetensors", *_TORCH_SUFFIXES) for f in folder.glob("*" + suffix))
    if (parts := shards_without_index(files, folder)) is not None:
        return {name: tensor for part in parts for name, tensor in read_tensors(part).items()}
    if len(files) == 1 and not (folder / ADAPTER).is_file():
        return read_tensors(files[0])
    if not files or (folder / ADAPTER).is_file():
        refuse_mistaken_folder(folder)
        raise nothing_in(folder)
    raise WeightsError(
        "several checkpoints in this folder", where=folder, known=[f.name for f in files], do="name one of them"
    )


def _read_shards(index: Path) -> "dict[str, Tensor]":
    try:
        weight_map = read_json(index, {"weight_map": dict})["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError) as error:
        raise WeightsError(f"the index of this checkpoint cannot be read: {error}", where=index) from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        if name in ("", ".", "..") or PurePath(name).name != name or "\\" in name or "\0" in name:
            raise UnsafeDataError(f"the index names a file outside its folder: {name!r}", where=index)
        if name.endswith(".index.json") or not (index.parent / name).is_file():
            raise WeightsError(
                f"the index names {name!r}, which is no file of weights beside it",
                where=index,
                do=f"fetch all {len(names)} files that it names into this folder",
            )
        tensors.update(read_tensors(index.parent / name))
    return tensors


def _read_safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"not a readable safetensors file: {error}", where=path) from error


_MAX_NESTING = 4
"""How deep published files wrap their tensors; a file that holds itself has no end."""


def _refuse_bomb(path: Path) -> None:
    """torch.save stores tensors as they are; an archive that grows when it is opened was made by somebody else.

    Raises:
        UnsafeDataError: its content is larger than the file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        content = sum(entry.file_size for entry in archive.infolist())
    if content > path.stat().st_size:
        raise UnsafeDataError(
            f"the archive of {path.stat().st_size:,} bytes holds {content:,}: tensors are never stored compressed",
            where=path,
            do="fetch the file again from its source",
        )


def _read_torch(path: Path) -> "dict[str, Tensor]":
    import torch

    try:
        _refuse_bomb(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle protocol of files it is about to refuse
            # Memory mapping needs the zip layout that torch.save writes since 1.6; published files may be older.
            with torch.serialization.safe_globals(_numpy_scalars()):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnsafeDataError:
        raise
    except Exception as error:  # what torch's readers raise on a damaged file has no end
        held = _GLOBAL.search(str(error))
        raise WeightsError(
            "refused: this file is damaged or holds more than plain tensors, and nothing in it was run",
            where=path,
            known=f"it holds {held[1]}" if held else None,
            do="convert it to safetensors on a machine where you trust it" + ("" if held else ", or fetch it again"),
        ) from error
    return _named(_tensors_of(content, path), path)


_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""How torch names what else a file holds."""


def _numpy_scalars() -> list[Any]:
    """What a number of NumPy beside the tensors (`best_ap`, `epoch`) is made with; none of it runs anything else."""
    scalar: Any = np.float64(0).__reduce__()[0]  # numpy's own name for it is not public
    kinds = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    return [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")] + [
        np.dtype,
        *kinds,
    ]


def _tensors_of(content: Any, path: Path) -> "dict[str, Tensor]":
    """The flat dictionary of tensors inside what torch.load gave."""
    import torch

    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        inner = next((key for key in _NESTED_UNDER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        _tell_others(content, inner, path)
        content = content[inner]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"holds a {type(content).__name__} instead of named tensors", where=path)
    # Counters and scores that a trainer wrote beside its tensors are nobody's weights.
    content = {name: value for name, value in content.items() if not isinstance(value, _PLAIN)}
    other = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other or not content:
        raise WeightsError(
            f"holds entries that are not tensors: {some(other)}",
            where=path,
            known=f"named tensors, flat or under {', '.join(_NESTED_UNDER)}",
        )
    _refuse_unusual(content, path)
    _refuse_inflated(content, path)
    return {str(name): value for name, value in content.items()}


_PLAIN = (int, float, np.generic)


def _tell_others(content: Mapping[Any, Any], taken: str, path: Path) -> None:
    """Averaged weights (`model_ema`) and the like beside those that are read: one of several was chosen."""
    import torch

    others = [
        str(name)
        for name, value in content.items()
        if name != taken and isinstance(value, Mapping) and isinstance(next(iter(value.values()), None), torch.Tensor)
    ]
    if others:
        tell(f"{path.name} holds {taken}, which is read, and {some(others)}, which is not")


def _refuse_unusual(tensors: "Mapping[Any, Tensor]", path: Path) -> None:
    """Weights are plain numbers: what has no values, few of them, or codes in their place fits no parameter.

    Raises:
        WeightsError: a tensor is sparse, nested, quantised, complex, or without values.
    """
    import torch

    for name, tensor in tensors.items():
        kind = next(
            (
                kind
                for kind, found in (
                    ("without values", tensor.device.type == "meta"),
                    ("nested", tensor.is_nested),
                    ("sparse", tensor.layout != torch.strided),
                    ("quantised", tensor.is_quantized),
                    ("complex", tensor.is_complex()),
                )
                if found
            ),
            None,
        )
        if kind:
            raise WeightsError(
                f"tensor {name!s:.200} is {kind}", where=path, do="save the model's parameters as plain dense tensors"
            )


def _refuse_inflated(tensors: "Mapping[Any, Tensor]", path: Path) -> None:
    """A view of a few bytes can claim any shape, and takes that much memory as soon as it is copied.

    Raises:
        UnsafeDataError: the tensors are larger than their file.
    """
    claimed = sum(map(_bytes, tensors.values()))
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    # Tied parameters share a storage, and a checkpoint may hold one a few times.
    if claimed > _MAX_SHARING * max(sum(held.values()), 1):
        raise UnsafeDataError(
            f"tensors of {claimed:,} bytes in a file of {path.stat().st_size:,}: they are views of few numbers",
            where=path,
            do="fetch the file again from its source",
        )


_MAX_SHARING = 16
"""How many times the stored bytes tied tensors may add up to."""


def write_safetensors(
    state: "Mapping[str, Tensor]",
    folder: str | Path,
    max_shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors as `model.safetensors`, or as shards with an index, under their final names only when complete.

    Args:
        state: names and tensors on any device; tensors that share memory are written apart.
        folder: created if needed; an older checkpoint in it is replaced.
        max_shard_bytes: largest size of one file; a single larger tensor gets a file of its own.
        metadata: strings for the header of every file.

    Returns:
        The files, the index last.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing of the old content was touched.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            names = _write_shards(state, Path(scratch), max_shard_bytes, dict(metadata or {}) | {"format": "pt"})
            for old in folder.glob("model*.safetensors*"):
                if old.name not in names:
                    old.unlink()
            for name in names:
                os.replace(Path(scratch) / name, folder / name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write weights: {error.strerror or error}",
            where=folder,
            do="free some space or choose another folder",
        ) from error
    return [folder / name for name in names]


def _write_shards(state: "Mapping[str, Tensor]", folder: Path, limit: int, metadata: dict[str, str]) -> list[str]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shards = _shards(state, limit)
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i in range(len(shards))
    ]
    free = shutil.disk_usage(folder).free
    needed = sum(map(_bytes, state.values()))
    if needed > free:
        raise OSError(28, f"No space left on device ({needed:,} bytes needed, {free:,} free)")
    for name, shard in zip(names, shards, strict=True):
        tensors = _separate({key: state[key] for key in shard})
        try:
            save_file(tensors, folder / name, metadata)
            (folder / name).chmod(READABLE)  # the library writes through a temporary file that only its owner may read
        except SafetensorError as error:
            raise OSError(5, str(error)) from error
        sync_file(folder / name)
    if len(shards) == 1:
        return names
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    sync_file(folder / INDEX_FILE)
    return [*names, INDEX_FILE]


def _shards(state: "Mapping[str, Tensor]", limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + _bytes(tensor) > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _bytes(tensor)
    return shards


def _bytes(tensor: "Tensor") -> int:
    return tensor.numel() * tensor.element_size()


def _separate(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """CPU tensors that own their memory; safetensors refuses aliases."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != _bytes(plain):
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result
