"""What the checks share: the model a case describes, its weights, its pictures and its batch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcore.contract.values import Draw
from mmcore.language.batch import ConversationBatch
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.language.splice import lay_out
from mmcore.parity import Case, Report, deterministic_array, deterministic_image
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.convnext import ConvNextTower
from mmcore.vision.pixels import Pixels
from mmcore.vision.towers import Tower
from torch import Tensor, nn

from mmcore_visper.config import DepthDecoderConfig, VisperConfig
from mmcore_visper.model import Visper
from mmcore_visper.probe import VisperProbe
from mmcore_visper.published_config import from_published

CLIP_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "projection_dim": "projection_dim",
    "hidden_act": "act",
    "layer_norm_eps": "eps",
}
"""Configuration keys of the published tower and ours."""
SMALL_DECODER = re.compile(r"in (\d+), features (\d+), out \[([\d, ]+)\]")
"""How cases describe the depth decoder that they have instead of the published one."""


def config_of(case: Case, kind: str | None = None, **changes: Any) -> VisperConfig:
    """The configuration of a case; what reads padding sees what the layers left there, as with eager attention."""
    given = case.data["config"]
    config = from_published(
        given,
        kind=kind or case.data.get("class") or given.get("model_type", "llama"),
        tower=tower_of(case),
        depth_decoder=decoder_of(case),
    )
    return config.replace(published={"padding_keys": "states"}, attention="eager").replace(**changes)


def tower_of(case: Case) -> Tower | None:
    """The small tower of a case, if it has one."""
    if clip := case.data.get("clip_config"):
        return ClipTower(**{ours: clip[theirs] for theirs, ours in CLIP_SIZES.items() if theirs in clip})
    if trunk := case.data.get("convnext_trunk"):
        return ConvNextTower(depths=tuple(trunk["depths"]), dims=tuple(trunk["dims"]))
    return None


def decoder_of(case: Case) -> DepthDecoderConfig | None:
    """The small depth decoder of a case, if it has one."""
    told = [case.data.get("depth_decoder", ""), *case.data.get("stubs", ())]
    found = next((match for text in told if (match := SMALL_DECODER.search(str(text)))), None)
    if found is None:
        return None
    width, features, channels = found.groups()
    first, second, third, last = (int(number) for number in channels.split(","))
    return DepthDecoderConfig(in_channels=int(width), features=int(features), out_channels=(first, second, third, last))


def model_of(case: Case, config: VisperConfig) -> Visper:
    """A model with the deterministic weights under the published names, in evaluation mode."""
    model = VisperProbe(config) if config.probe else Visper(config)
    fill(model, case.data.get("logit_scales") or {})
    return model.eval()


def fill(model: Visper, scalars: Mapping[str, float]) -> None:
    """Give every parameter the deterministic value of its published name; those without shape are listed."""
    names = model.published()
    own = model.state_dict()
    values = {
        name: torch.tensor(scalars[name]) if not tensor.ndim else deterministic(name, tuple(tensor.shape))
        for name, tensor in names.to_published(own).items()
    }
    model.load_state_dict(names.to_ours(values, own)[0])


def fill_module(module: nn.Module, prefix: str, rules: Mapping[str, str] | None = None) -> None:
    """Fill a part by the published names that `rules` gives its own, behind a prefix."""
    published = {name: (rules or {}).get(name, name) for name in module.state_dict()}
    module.load_state_dict(
        {name: deterministic(prefix + published[name], tuple(t.shape)) for name, t in module.state_dict().items()}
    )


def deterministic(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden weight of this name."""
    return torch.from_numpy(np.ascontiguousarray(deterministic_array(name, shape)))


def unit(name: str, shape: Sequence[int]) -> Tensor:
    """The golden input of this name: normal, deviation about 1."""
    flat = deterministic_array(name, (int(np.prod(shape)),)) * np.float32(50)
    return torch.from_numpy(flat.reshape(tuple(shape)))


def pixels(seeds: Iterable[int], side: int) -> Tensor:
    """(images, 3, side, side): golden pictures as the towers take them."""
    pictures = [torch.from_numpy(deterministic_image(seed, side, side)).permute(2, 0, 1) for seed in seeds]
    return Pixels(CLIP_MEAN, CLIP_STD)(torch.stack(pictures)) if pictures else torch.zeros(0, 3, side, side)


def encoded_rows(ids: Tensor, labels: Tensor | None, mask: Tensor | None) -> list[Encoded]:
    """Stored rows without their padding."""
    rows = []
    for i in range(len(ids)):
        keep = torch.ones_like(ids[i], dtype=torch.bool) if mask is None else mask[i].bool()
        row = ids[i][keep].numpy()
        learned = labels[i][keep].numpy() if labels is not None else np.full(len(row), IGNORE)
        rows.append(Encoded(row, learned))
    return rows


def make_batch(
    case: Case,
    config: VisperConfig,
    rows: Sequence[Encoded],
    images: Tensor,
    targets: Mapping[str, Tensor] | None = None,
) -> ConversationBatch:
    """A padded batch; `images` has one picture for each row that holds a placeholder."""
    sequences = lay_out(rows, config.expansion, max_length=config.max_length)
    with_image = [i for i, row in enumerate(rows) if (row.ids == IMAGE).any()]
    return ConversationBatch(
        source=case.name,
        draws=tuple(Draw(case.name, row, 0) for row in range(len(rows))),
        normalisers={"tokens": float(len(sequences.targets)), "samples": float(len(rows))},
        sequences=sequences,
        images=images,
        image_samples=torch.tensor(with_image, dtype=torch.int64),
        image_ids=tuple(range(len(rows))),
        record_ids=(None,) * len(rows),
        original_sizes=((0, 0),) * len(rows),
        features=dict(targets or {}),
    )


def batch_of(case: Case, config: VisperConfig, targets: Mapping[str, Tensor] | None = None) -> ConversationBatch:
    """The stored batch of a forward case; only rows with an image have a picture."""
    given = case.tensors
    ids = given["input_ids"]
    rows = encoded_rows(ids, given.get("labels"), given.get("attention_mask"))
    seeds = case.data["inputs"]["image_seeds"]
    dropped = case.data["inputs"].get("no_image_rows", [])
    chosen = [seed for row, seed in enumerate(seeds) if row not in dropped]
    return make_batch(case, config, rows, pixels(chosen, config.image_size), targets)


def spliced_labels(batch: ConversationBatch) -> Tensor:
    """Labels of every position, as the published splice pads them."""
    rows, length = batch.sequences.shape
    labels = torch.full((rows * length,), IGNORE)
    labels[batch.sequences.supervised + 1] = batch.sequences.targets
    return labels.view(rows, length)


def close_all(report: Report, actual: Mapping[str, Any], expected: Mapping[str, Any], **limits: Any) -> None:
    """Compare every stored name; one that is missing on our side fails."""
    for name in expected:
        report.close(name, actual.get(name, float("nan")), expected[name], **limits)


def limits_of(case: Case) -> dict[str, float]:
    """The case's tolerances."""
    return {"absolute": case.data["tolerance"]["atol"], "relative": case.data["tolerance"]["rtol"]}


def every(case: Case, entry: str, default: int = 1) -> int:
    """The step of a sub-sampled output, from its description: "tokens 0,48,..."."""
    found = re.search(r"0, ?(\d+)", str(case.data["outputs"].get(entry, "")))
    return int(found.group(1)) if found else default
