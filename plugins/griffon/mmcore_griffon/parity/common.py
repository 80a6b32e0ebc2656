"""What the checks share: the model a case describes, its weights, its pictures and its batch."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import CROP, Draw
from mmcore.language.batch import ConversationBatch
from mmcore.language.sequence import IGNORE, IMAGE, REGION, Encoded
from mmcore.language.splice import lay_out
from mmcore.parity import Case, deterministic_array, deterministic_image
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.clip_vit import ClipTower
from torch import Tensor

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.model import Griffon
from mmcore_griffon.published_config import from_published

LANGUAGES = {"gemma": "gemma2", "llama": "llama", "qwen": "qwen2"}
"""A case's word for its language model, and transformers'."""
CLIP_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_layers",
    "heads": "num_heads",
    "inter": "intermediate_size",
    "size": "image_size",
    "patch": "patch_size",
}
"""A case's words for a tower's sizes and ours."""


def config_of(case: Case, **changes: Any) -> GriffonConfig:
    """The configuration of a case."""
    data = case.data
    return published(
        data["family"],
        data["llm_config"],
        data["multimodal_config"],
        data["vision_config"],
        data["prompt_vision_config"],
    ).replace(**changes)


def published(
    family: str,
    language: Mapping[str, Any],
    multimodal: Mapping[str, Any],
    tower: Mapping[str, Any],
    region: Mapping[str, Any] | None,
) -> GriffonConfig:
    """The configuration that the entries of a published `config.json` and the sizes of both towers describe."""
    kind = LANGUAGES[family]
    entries = {**language, **multimodal}
    if kind == "qwen2":
        entries.setdefault("tie_word_embeddings", False)
    config = from_published(entries, kind=kind, tower=clip(tower), region_tower=region_clip(region))
    return config.replace(max_length=multimodal.get("tokenizer_model_max_length") or config.max_length)


def clip(sizes: Mapping[str, Any]) -> ClipTower:
    """The main tower."""
    return ClipTower(**{ours: sizes[theirs] for theirs, ours in CLIP_SIZES.items()})


def region_clip(sizes: Mapping[str, Any] | None) -> ClipTower | None:
    """The region tokenizer's, whose last class token is read."""
    if sizes is None:
        return None
    given = {ours: sizes[theirs] for theirs, ours in CLIP_SIZES.items()}
    return ClipTower(**given, select_layer=-1, select_feature="cls")


def model_of(config: GriffonConfig) -> Griffon:
    """A model with the deterministic weights under the published names, in evaluation mode."""
    model = Griffon(config)
    names, own = model.published(), model.state_dict()
    values = {name: deterministic(name, tensor.shape) for name, tensor in names.to_published(own).items()}
    model.load_state_dict(names.to_ours(values, own)[0])
    return model.eval()


def deterministic(name: str, shape: Sequence[int]) -> Tensor:
    """The golden weight of this name."""
    return torch.from_numpy(np.ascontiguousarray(deterministic_array(name, tuple(shape))))


def picture(source: Sequence[int], pixels: ClipImages) -> Tensor:
    """A golden picture (seed, height, width) as the tower takes it."""
    seed, height, width = source
    return pixels(deterministic_image(seed, height, width))


def encoded_rows(ids: Tensor, labels: Tensor | None, mask: Tensor | None) -> list[Encoded]:
    """Stored rows without their padding; every second placeholder of a row is its region."""
    rows = []
    for i in range(len(ids)):
        keep = torch.ones_like(ids[i], dtype=torch.bool) if mask is None else mask[i].bool()
        row = ids[i][keep].numpy().copy()
        places = np.flatnonzero(row == IMAGE)
        row[places[1::2]] = REGION
        learned = labels[i][keep].numpy() if labels is not None else np.full(len(row), IGNORE)
        rows.append(Encoded(row, learned))
    return rows


def make_batch(
    name: str,
    config: GriffonConfig,
    rows: Sequence[Encoded],
    images: Tensor,
    crops: Tensor | None = None,
    *,
    padding_side: Any = "right",
    max_length: int | None = None,
) -> ConversationBatch:
    """A padded batch.

    Args:
        name: of the case.
        config: of the model.
        rows: without padding, each with at least one token.
        images: one for each row, of which those without a placeholder are not looked at; as published.
        crops: likewise for regions.
        padding_side: of the rows.
        max_length: longest sequence after expansion; the configuration's when None.
    """
    sequences = lay_out(rows, config.expansion, max_length=max_length or config.max_length, padding_side=padding_side)
    pictured = [i for i, row in enumerate(rows) if (row.ids == IMAGE).any()]
    pointed = [i for i, row in enumerate(rows) if (row.ids == REGION).any()]
    return ConversationBatch(
        source=name,
        draws=tuple(Draw(name, row, 0) for row in range(len(rows))),
        normalisers={"tokens": float(len(sequences.targets)), "samples": float(len(rows))},
        sequences=sequences,
        images=images[pictured],
        image_samples=torch.tensor(pictured, dtype=torch.int64),
        image_ids=tuple(range(len(rows))),
        record_ids=(None,) * len(rows),
        original_sizes=((0, 0),) * len(rows),
        other_images={CROP: crops[pointed]} if crops is not None and pointed else {},
    )


def limits_of(case: Case, kind: str | None = None) -> dict[str, float]:
    """The case's tolerances, read from its sentences, such as "atol 1e-4 rtol 1e-4".

    Args:
        case: whose `tolerances` are one text, or a text by kind.
        kind: of the quantity; of one text it is found in the part between semicolons that names it.
    """
    told = case.data["tolerances"]
    if kind is not None:
        told = told[kind] if isinstance(told, dict) else next(part for part in told.split(";") if kind in part)
    words = str(told).replace(",", " ").split()
    found = {"atol": 0.0, "rtol": 0.0}
    for word, value in pairwise(words):
        if word in found:
            found[word] = float(value)
    return {"absolute": found["atol"], "relative": found["rtol"]}
