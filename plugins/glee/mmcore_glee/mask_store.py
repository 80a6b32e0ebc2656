"""Mask features of a whole video, which are needed again once its best tracks are known.

A frame has 26 MB of them at 480p, so a long video would fill the memory. The first of them stay there; further frames
lie in a temporary file, which vanishes with the process. What is read back is what was put in, bit by bit.
"""

import tempfile
import weakref
from typing import IO

import torch
from jaxtyping import Float
from mmcore.base.terminal import tell
from torch import Tensor

IN_MEMORY = 1 << 30
"""Bytes that stay in memory."""


class MaskStore:
    """Frames in order, each (mask_dim, h, w) float32 on the CPU.

    Args:
        in_memory: bytes that stay in memory.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.room = in_memory
        self._frames: list[Tensor | tuple[int, torch.Size]] = []
        self._file: IO[bytes] | None = None
        self._end = 0

    def __len__(self) -> int:
        return len(self._frames)

    def extend(self, features: Float[Tensor, "frames mask_dim h w"]) -> None:
        """Put in the next frames."""
        for frame in features.float().cpu():
            size = frame.nbytes
            if size > self.room and self._written(frame):
                self._frames.append((self._end, frame.shape))
                self._end += size
            else:
                self.room -= size
                # A copy, or the whole window would stay for one frame of it.
                self._frames.append(frame.clone())

    def __getitem__(self, frame: int) -> Float[Tensor, "mask_dim h w"]:
        kept = self._frames[frame]
        if isinstance(kept, Tensor):
            return kept
        offset, shape = kept
        assert self._file is not None
        self._file.seek(offset)
        content = bytearray(4 * shape.numel())
        self._file.readinto(content)  # type: ignore[attr-defined]
        return torch.frombuffer(content, dtype=torch.float32).view(shape)

    def _written(self, frame: Tensor) -> bool:
        """Whether the file took a frame; where it cannot, frames stay in memory and that is told."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="mmcore-masks-")  # noqa: SIM115 - lives as long as this
                weakref.finalize(self, self._file.close)
            self._file.seek(self._end)
            self._file.write(frame.contiguous().numpy().tobytes())
            self._file.flush()
        except OSError as error:
            tell(f"mask features stay in memory: {tempfile.gettempdir()} takes no more ({error.strerror}); set TMPDIR")
            self.room = 1 << 62
            return False
        return True
