"""Who am I among the processes of a run, and the few words they exchange.

Rank and address come from the variables that torchrun, DeepSpeed, SLURM and Open MPI set. Host messages (counts, votes,
evaluation results) are JSON over a Gloo group beside the device's own group: no pickle, and no device is disturbed.
"""

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmcore.errors import LaunchError

_host_group: Any = None

RANK = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
WORLD_SIZE = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place, from whichever launcher's variables are set.

    A SLURM allocation alone does not make a distributed run: SLURM_STEP_NUM_TASKS is set only inside `srun` steps.

    Raises:
        LaunchError: the variables contradict one another.
    """
    environment = os.environ if environment is None else environment
    for rank_key, world_key, local_key in zip(RANK, WORLD_SIZE, LOCAL_RANK, strict=True):
        if rank_key not in environment or world_key not in environment:
            continue
        try:
            rank, world = int(environment[rank_key]), int(environment[world_key])
            local = int(environment.get(local_key, "0"))
        except ValueError:
            raise LaunchError(f"{rank_key} and {world_key} are not numbers", where="environment") from None
        if not 0 <= rank < world:
            raise LaunchError(f"rank {rank} of {world} processes", where=f"{rank_key} and {world_key}")
        return Place(rank, world, local)
    return Place()


def start(device: torch.device, *, timeout_s: float = 1800.0, alone: bool = False) -> Place:
    """Join the other processes; does nothing for a single one or when already joined.

    Args:
        device: of this process.
        timeout_s: how long the others may be silent.
        alone: make a group of one for a single process too, which DeepSpeed asks for.

    Raises:
        LaunchError: the others cannot be reached.
    """
    global _host_group
    here = place()
    if here.world_size == 1:
        if alone and not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
            os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asserts that a launcher set it
        return here
    if not dist.is_initialized():
        _fill_address(here)
        timeout = datetime.timedelta(seconds=timeout_s)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            dist.init_process_group(backend, rank=here.rank, world_size=here.world_size, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            raise LaunchError(
                f"process {here.rank} of {here.world_size} cannot join the others: {error}",
                where=f"MASTER_ADDR {os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}",
                do="start all processes with one launcher (--nproc, torchrun, srun) and check the address",
            ) from None
    if _host_group is None:
        timeout = datetime.timedelta(seconds=timeout_s)
        _host_group = dist.new_group(backend="gloo", timeout=timeout)
    return here


def stop() -> None:
    """Leave the other processes."""
    global _host_group
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    _host_group = None


def gather_json(value: Any) -> list[Any] | None:
    """Every process's value on the first process, in rank order; None on the others, which receive nothing.

    Args:
        value: anything that JSON can hold. Infinities and NaN travel too.
    """
    if not is_distributed():
        return [value]
    mine = _bytes(value)
    sizes = _sizes(mine)
    # Gathering pads every message to the longest; one by one they take no more room than they are long.
    if not place().is_first:
        dist.send(mine, dst=0, group=_group())
        return None
    parts = [mine]
    for rank, size in enumerate(sizes[1:], start=1):
        parts.append(torch.empty(size, dtype=torch.uint8))
        dist.recv(parts[-1], src=rank, group=_group())
    return [_value(part) for part in parts]


def all_gather_json(value: Any) -> list[Any]:
    """Every process's value on every process, in rank order."""
    if not is_distributed():
        return [value]
    mine = _bytes(value)
    sizes = _sizes(mine)
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=_group())
    return [_value(part[:size]) for part, size in zip(parts, sizes, strict=True)]


def broadcast_json(value: Any) -> Any:
    """The first process's value on every process."""
    if not is_distributed():
        return value
    first = place().is_first
    data = _bytes(value) if first else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(data)])
    dist.broadcast(size, src=0, group=_group())
    data = data if first else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, src=0, group=_group())
    return _value(data)


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier(group=_group())


def _bytes(value: Any) -> Tensor:
    """A value as JSON, one uint8 a byte; never empty."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value(data: Tensor) -> Any:
    """What `_bytes` was made from, apart from what JSON makes of it."""
    return json.loads(data.numpy().tobytes())


def _sizes(mine: Tensor) -> list[int]:
    """How many bytes each process has, on every process."""
    sizes = torch.zeros(dist.get_world_size(_group()), dtype=torch.int64)
    dist.all_gather_into_tensor(sizes, torch.tensor([len(mine)]), group=_group())
    return sizes.tolist()


def is_distributed() -> bool:
    """Whether several processes work on one run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _group() -> Any:
    global _host_group
    if _host_group is None:
        _host_group = dist.new_group(backend="gloo")
    return _host_group


def _fill_address(here: Place) -> None:
    """What torch.distributed reads and not every launcher sets."""
    os.environ.setdefault("RANK", str(here.rank))
    os.environ.setdefault("WORLD_SIZE", str(here.world_size))
    os.environ.setdefault("LOCAL_RANK", str(here.local_rank))
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_NODELIST", "")
        if nodes and int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1:
            raise LaunchError(
                "the address of the first process is not known",
                where="environment variable MASTER_ADDR",
                do="export MASTER_ADDR=$(scontrol show hostnames $SLURM_NODELIST | head -n 1) before srun",
            )
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ.setdefault("MASTER_PORT", "29500")
