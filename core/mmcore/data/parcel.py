"""How a batch comes from a worker: through shared memory, or through the pipe where that has no room.

torch moves tensors into /dev/shm in a thread that sends; when that fails, as in a container with 64 MiB of it, the
thread loses the batch and the reader waits for ever. So a worker packs its answer before it hands it over: what cannot
be shared is copied into the answer itself, which is slower and works anywhere.
"""

import io
import os
import pickle
import shutil
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.base.terminal import tell
from mmcore.errors import DataError

SHARED = Path("/dev/shm")
REMEDY = "start the container with --shm-size=8g or --ipc=host, mount /dev/shm writable, or use --workers 0"
_ROOM_A_BATCH = 16 * 2**20
"""Bytes of shared memory that one waiting batch of photographs takes at least."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A worker's answer, packed."""

    content: bytes
    trouble: str | None = None
    """Why its tensors could not be shared."""

    @property
    def answer(self) -> Any:
        """What was packed; to be taken once, by the process that started the worker."""
        return pickle.loads(self.content)

    def pin_memory(self) -> Any:
        """The answer in page-locked memory; called in the loader's own thread."""
        answer = self.answer
        return answer.pin_memory() if hasattr(answer, "pin_memory") else answer


def pack(answer: Any) -> Parcel:
    """Pack what a worker answers; a collate function of a `DataLoader` without batching."""
    try:
        return Parcel(bytes(_shared(answer)))
    except (RuntimeError, OSError) as error:
        return Parcel(_copied(answer), str(error).splitlines()[0] if str(error) else type(error).__name__)


class Unpacker:
    """Opens parcels, and tells the first time that one did not come through shared memory."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, received: Any) -> Any:
        if not isinstance(received, Parcel):
            return received
        if received.trouble and not self.told:
            self.told = True
            tell(f"batches travel through pipes, which is slower: {received.trouble}\n  do:    {REMEDY}")
        return received.answer


def check_room(num_workers: int, prefetch: int) -> None:
    """Look at shared memory before workers start.

    Raises:
        DataError: it cannot be used at all, so that no worker could be started.
    """
    if not num_workers or not SHARED.is_dir():
        return
    if not os.access(SHARED, os.W_OK):
        raise DataError(f"data workers cannot start: {SHARED} cannot be written", where=SHARED, do=REMEDY)
    try:
        get_context().Lock()  # the semaphores of their queues lie in shared memory too
    except OSError as error:
        raise DataError(f"data workers cannot start: {error}", where=SHARED, do=REMEDY) from error
    free, wanted = shutil.disk_usage(SHARED).free, num_workers * prefetch * _ROOM_A_BATCH
    if free < wanted:
        tell(
            f"{SHARED} has {free / 2**20:.0f} MiB free for {num_workers * prefetch} waiting batches; those that find "
            f"no room travel through pipes, which is slower\n  do:    {REMEDY}"
        )


def _shared(answer: Any) -> memoryview:
    return ForkingPickler.dumps(answer)


class _CopyingPickler(pickle.Pickler):
    """Writes a tensor's bytes beside its type and shape."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            flat = obj.detach().contiguous().cpu().reshape(-1)
            return _tensor, (flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"", obj.dtype, obj.shape)
        return NotImplemented


def _copied(answer: Any) -> bytes:
    out = io.BytesIO()
    _CopyingPickler(out, pickle.HIGHEST_PROTOCOL).dump(answer)
    return out.getvalue()


def _tensor(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
