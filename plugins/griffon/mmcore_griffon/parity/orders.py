"""The published samplers, with the permutations of the case's seeds."""

from typing import Any

import numpy as np
import torch
from mmcore.data.order.megabatches import group, group_kinds
from mmcore.parity import Case, Check, Report

PERMUTED, JOINED = (1, 2, 0), (0, 2, 1)
"""General, localisation, text only: in which order they are permuted, and laid end to end before megabatches are."""


def samplers(case: Case, report: Report) -> None:
    """Every order that the published code gives; where it stops, ours takes what it is given."""
    for number, entry in enumerate(case.data["cases"]):
        name = f"cases.{number}.{entry['mode']}"
        if entry["indices"] is None:
            report.equal(f"{name}, refused there and taken here", len(np.unique(_order(entry))) > 0, True)
            continue
        report.equal(name, _order(entry).tolist(), entry["indices"])
        report.equal(f"{name}.sampler_len", len(entry["lengths"]), entry["sampler_len"])


def _order(entry: dict[str, Any]) -> np.ndarray:
    torch.manual_seed(entry["torch_seed"])
    batch, world = entry["batch_size"], entry["world_size_times_accumulation"]

    def permutation(size: int) -> np.ndarray:
        return torch.randperm(size).numpy()

    if entry["mode"] != "task":
        lengths = np.array(entry["lengths"])
        kinds = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
        if entry["mode"] == "plain" or not all(map(len, kinds)):
            return group(lengths, batch, world, permutation)
        return group_kinds(kinds, lengths, batch, world, permutation, keep_rest=False)
    tasks, lengths = np.array(entry["lengths"]).T
    present = [task for task in PERMUTED if (tasks == task).any()]
    if len(set(tasks.tolist())) == 1:
        return group(lengths, batch, world, permutation)
    kinds = [np.flatnonzero(tasks == task) for task in present]
    joined = JOINED if len(present) == len(JOINED) else None
    return group_kinds(kinds, lengths, batch, world, permutation, joined=joined, keep_rest=False)


KINDS: dict[str, Check] = {"samplers": samplers}
