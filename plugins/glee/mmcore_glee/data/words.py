"""Which words a batch is asked about: what occurs in it, and random other names that do not.

So the text encoder reads 100 names instead of a thousand, and every batch has something to say no to.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from mmcore.contract.values import Sample

from mmcore_glee.data.samples import keep_objects


def sampled_names(
    samples: Sequence[Sample], vocabulary: tuple[str, ...], num_names: int, rng: np.random.Generator
) -> tuple[list[Sample], tuple[str, ...]]:
    """The labels of the batch and random others up to `num_names`; labels count positions in the new list.

    A batch with more labels than names keeps a random choice of them and drops the other objects; the published code
    stops there.
    """
    present = np.unique(torch.cat([sample.labels for sample in samples]).numpy())
    if len(present) > num_names:
        present = np.sort(rng.choice(present, num_names, replace=False))
    others = np.setdiff1d(np.arange(len(vocabulary)), present, assume_unique=True)
    missing = min(num_names - len(present), len(others))
    chosen = np.concatenate([present, rng.choice(others, missing, replace=False)]).astype(np.int64)
    position = torch.full((len(vocabulary),), -1, dtype=torch.int64)
    position[torch.from_numpy(chosen)] = torch.arange(len(chosen))
    relabelled = [keep_objects(sample, position[sample.labels] >= 0) for sample in samples]
    relabelled = [replace(sample, labels=position[sample.labels]) for sample in relabelled]
    return relabelled, tuple(vocabulary[index] for index in chosen)


def phrases_of_batch(
    samples: Sequence[Sample], negatives: Sequence[str], num_names: int, rng: np.random.Generator
) -> tuple[list[Sample], tuple[str, ...]]:
    """The phrases of the batch and random others up to `num_names`, shuffled; labels count positions in that list."""
    present = list(dict.fromkeys(phrase for sample in samples for phrase in sample.names or ()))
    if len(present) > num_names:
        present = [present[i] for i in rng.permutation(len(present))[:num_names]]
    # As many draws as names: even if all of them occur in the batch, enough are left.
    drawn = [negatives[i] for i in rng.choice(len(negatives), min(num_names, len(negatives)), replace=False)]
    occurring = set(present)
    others = [phrase for phrase in drawn if phrase not in occurring][: num_names - len(present)]
    names = [*present, *others]
    names = [names[i] for i in rng.permutation(len(names))]
    position = {name: i for i, name in enumerate(names)}
    relabelled = []
    for sample in samples:
        labels = torch.tensor([position.get(phrase, -1) for phrase in sample.names or ()], dtype=torch.int64)
        relabelled.append(keep_objects(replace(sample, labels=labels), labels >= 0))
    return relabelled, tuple(names)
