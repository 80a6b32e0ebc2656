"""Splicing of image features and task tokens among words: where all of it stands, and what the language model reads."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from mmcore.language import splice
from mmcore.language.sequence import IGNORE, IMAGE, Encoded, Sequences
from mmcore.parity import Case, Check, Report, deterministic_array
from torch import Tensor, nn

from mmcore_visper.config import VisperConfig
from mmcore_visper.published_config import from_published

CLASSES = {"pt": "OlaLlavaLlamaForCausalLM", "ift": "LlavaLlamaForCausalLM"}
"""Published class by the beginning of a stored name: with and without predictors."""
PROBE_STEP = 37
"""Embeddings are stored at every so many positions."""


def check(case: Case, report: Report) -> None:
    """Every stored combination of class, padding side and maximum length."""
    absolute = case.data["tolerance"]["atol"]
    for name, stored in case.data["outputs"].items():
        kind, side, longest = name.split(".")
        config = from_published({"model_type": "llama", **case.data["config"]}, kind=CLASSES[kind])
        encoded = encode(case.tensors["input_ids"].numpy())
        sequences = splice.lay_out(encoded, config.expansion, max_length=int(longest), padding_side=side)  # type: ignore[arg-type]
        embeds = splice.embed(sequences, words(config), features(case, config, encoded))
        report.equal(f"{name}.shape", list(embeds.shape), stored["shape"])
        report.equal(f"{name}.labels", labels(sequences, encoded), case.tensors[f"{name}.labels"])
        report.equal(f"{name}.attention_mask", sequences.valid.long(), case.tensors[f"{name}.attention_mask"])
        probe = embeds[:, ::PROBE_STEP]
        report.close(f"{name}.embeds_probe", probe, case.tensors[f"{name}.embeds_probe"], absolute=absolute)


def encode(ids: np.ndarray) -> list[Encoded]:
    """Padded rows of the case as samples; every word is learned."""
    rows = [row[row != 0] for row in ids]
    return [Encoded(row, np.where(row == IMAGE, IGNORE, row)) for row in rows]


def words(config: VisperConfig) -> nn.Embedding:
    """The language model's embeddings."""
    shape = (int(config.language["vocab_size"]), config.width)
    return nn.Embedding.from_pretrained(torch.from_numpy(deterministic_array("model.embed_tokens.weight", shape)))


def features(case: Case, config: VisperConfig, encoded: list[Encoded]) -> Mapping[str, Tensor]:
    """Stored image features of every placeholder, and each image's task tokens.

    The published code uses up one image per row without a placeholder; ours has none there.
    """
    counts = [int((sample.ids == IMAGE).sum()) for sample in encoded]
    used = [max(1, count) for count in counts]
    shape = (sum(used), config.image_tokens, config.width)
    name = re.search(r"unit\('([^']+)'", case.data["inputs"]["features"])
    flat = deterministic_array(name[1] if name else f"{case.name}.features", (int(np.prod(shape)),)) * np.float32(50)
    images = torch.from_numpy(flat.reshape(shape))[torch.tensor(counts).gt(0).repeat_interleave(torch.tensor(used))]
    tasks = {task: task_rows(config, task, rows) for task, rows in config.task_tokens}
    return {"image": images} | {task: rows.repeat(len(images), 1) for task, rows in tasks.items()}


def task_rows(config: VisperConfig, name: str, count: int) -> Tensor:
    """The parameter of a task, as many rows as are inserted: means over consecutive groups."""
    task = config.task(name)
    rows = config.num_task_tokens if name == "gen" else task.num_tokens
    whole = torch.from_numpy(deterministic_array(f"model.special_{name}_tokens", (rows, config.width)))
    return whole.unflatten(0, (count, -1)).mean(1)


def labels(sequences: Sequences, encoded: list[Encoded]) -> Tensor:
    """Unshifted labels at every position. A sample's first token is predicted by nothing, so the plan leaves it out."""
    flat = torch.full((sequences.ids.numel(),), IGNORE)
    flat[sequences.supervised + 1] = sequences.targets
    grid = flat.view(sequences.shape)
    for place, sample in zip(sequences.locations, encoded, strict=True):
        grid[place.row, place.start] = int(sample.labels[0])
    return grid


KINDS: Mapping[str, Check] = {"data_splice": check}
