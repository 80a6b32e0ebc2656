"""Tensors in safetensors files: written one after the other while being hashed, read one by one when taken."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmcore.base.files import HashingFile, Written
from mmcore.errors import CheckpointError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one tensor in a file; `get` is called when its turn has come."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    get: Callable[[], Tensor]


def write_safetensors(path: Path, slots: Iterable[Slot]) -> Written:
    """Write tensors one after the other in the safetensors format, never holding more than one of them.

    Args:
        path: must not exist.
        slots: in the order of the file.
    """
    slots = list(slots)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for slot in slots:
        size = torch.Size(slot.shape).numel() * slot.dtype.itemsize
        header[slot.name] = {
            "dtype": _NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file = HashingFile(path)
    try:
        file.write(len(text).to_bytes(8, "little") + text)
        for slot in slots:
            tensor = slot.get().detach().to("cpu", slot.dtype).contiguous()
            assert tuple(tensor.shape) == slot.shape, f"{slot.name}: {tuple(tensor.shape)} is not {slot.shape}"
            if tensor.numel():
                file.write(memoryview(tensor.flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
        return file.close()
    except BaseException:
        file.abandon()
        raise


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of some safetensors files by name, each read from its file when taken.

    Args:
        files: opened together, names must not repeat.
        prefix: only names that begin with this, without it.
    """

    def __init__(self, files: Iterable[Path], prefix: str = "") -> None:
        self._homes: dict[str, tuple[Any, str]] = {}
        for path in files:
            try:
                handle = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"cannot read tensors: {error}", where=path) from None
            for name in handle.keys():  # noqa: SIM118 not a mapping
                if name.startswith(prefix):
                    self._homes[name.removeprefix(prefix)] = (handle, name)

    def __getitem__(self, name: str) -> Tensor:
        handle, key = self._homes[name]
        return handle.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        handle, key = self._homes[name]
        return tuple(handle.get_slice(key).get_shape())
