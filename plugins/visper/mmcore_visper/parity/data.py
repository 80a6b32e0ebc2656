"""Conversations, data sets, collated rows and length grouping: what the published loaders made of the same files."""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmcore.data.formats.captions import CaptionParser
from mmcore.data.formats.llava import Conversation, LlavaIndex
from mmcore.data.index import open_index
from mmcore.data.order.megabatches import group
from mmcore.language.conversation import Template, normalise
from mmcore.language.conversation_templates import template
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, IMAGE, Encoded, Turn
from mmcore.language.tokens import load_tokenizer, tokenize
from mmcore.parity import Case, Check, Report
from mmcore.vision.clip_images import ClipImages
from torch import Tensor

from mmcore_visper.data.formats import PROBE_REQUEST

TOKENIZERS = {"llama3": ("tokenizer_llama3",), "phi3": ("tokenizer_phi3", "tokenizer_phi3_fast")}
"""Folders beside the conversations, by template; the second of Phi-3 is the first, converted."""
WORDS_OF_IMAGE = 128
"""What the published `lengths` add for an image."""
GRID = 12
"""Rows and columns of an image that are stored: the middles of so many equal parts."""
MAX_LENGTH = 4096
"""Of every published recipe; cases say when theirs differs."""


def conversations(case: Case, report: Report) -> None:
    """Every conversation of every template: its text, its tokens, and which of them are learned."""
    for name, entries in case.data["conversations"].items():
        style = template(name)
        for folder in TOKENIZERS.get(name, (f"tokenizer_{name}",)):
            if (case.folder / folder).is_dir():
                tokenizer = load_tokenizer(case.folder / folder, template=style)
                tag = "" if folder == f"tokenizer_{name}" else f" ({folder})"
                _facts(case, report, name, tag, style, tokenizer)
                for key, entry in entries.items():
                    if isinstance(entry, dict):
                        _conversation(case, report, f"{name}.{key}", tag, style, tokenizer, entry)


def _facts(case: Case, report: Report, name: str, tag: str, style: Template, tokenizer: Any) -> None:
    asked = style.render((Turn("user", "<image>\nWhat color is the cat?"), Turn("assistant", "")))
    ours = {
        "generation_prompt": asked,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "len_tokenizer": len(tokenizer),
        "prompt_tokens_before_image": tokenize(style.first, tokenizer).size,
    }
    for key, value in case.data["conversations"][name].items():
        if not isinstance(value, dict):
            report.equal(f"{name}.{key}{tag}", ours[key], value)
    key = f"{name}.generation_prompt.input_ids"
    if key in case.tensors:
        report.equal(f"{key}{tag}", tokenize(asked, tokenizer), case.tensors[key])
        report.covers(key)


def _conversation(
    case: Case, report: Report, name: str, tag: str, style: Template, tokenizer: Any, stored: dict[str, Any]
) -> None:
    turns = normalise(stored["turns"], has_image=stored["has_image"])
    encoded = encode(turns, style, tokenizer, MAX_LENGTH, stored["has_image"])
    learned = encoded.labels[encoded.labels != IGNORE]
    report.equal(f"{name}.prompt{tag}", style.render(turns), stored["prompt"])
    report.equal(f"{name}.input_ids{tag}", encoded.ids, case.tensors[f"{name}.input_ids"])
    report.equal(f"{name}.labels{tag}", encoded.labels, case.tensors[f"{name}.labels"])
    report.equal(f"{name}.n_ids{tag}", len(encoded.ids), stored["n_ids"])
    report.equal(f"{name}.image_position{tag}", np.flatnonzero(encoded.ids == IMAGE), stored["image_position"])
    report.equal(f"{name}.all_masked{tag}", encoded.problem is not None, stored["all_masked"])
    supervised = tokenizer.convert_ids_to_tokens(learned.tolist())
    report.equal(f"{name}.supervised_tokens{tag}", supervised, stored["supervised_tokens"])
    report.covers(f"{name}.input_ids", f"{name}.labels")


def dataset(case: Case, report: Report) -> None:
    """A LLaVA file read, tokenised and padded; images in the mode and arithmetic that the case names."""
    with TemporaryDirectory() as cache:
        index = LlavaIndex.open(case.folder / case.data["files"]["annotations"], Path(cache))
        records = [index[position] for position in range(len(index))]
        words = index.lengths().astype(np.int64)
    stored = case.data["outputs"]
    report.equal("modality_lengths", words, stored["modality_lengths"])
    images = WORDS_OF_IMAGE * (words > 0)
    report.equal("lengths", np.abs(words) + images, stored["lengths"])
    tokenizer, limit = _tokenizer(case)
    pixels = _processor(case)
    for number, (record, expected) in enumerate(zip(records, stored["samples"], strict=True)):
        _record(case, report, number, record, tokenizer, limit)
        _image(case, report, number, record, pixels, expected)
    encoded = [_encode(case, record, tokenizer, limit) for record in records]
    _batch(case, report, encoded, [record.image is not None for record in records], tokenizer.pad_token_id)


def _record(case: Case, report: Report, number: int, record: Conversation, tokenizer: Any, limit: int) -> None:
    # A text is cut as it is tokenised, one with an image only in the batch.
    encoded = _encode(case, record, tokenizer, limit if record.image is None else None)
    report.equal(f"{number}.input_ids", encoded.ids, case.tensors[f"{number}.input_ids"])
    report.equal(f"{number}.labels", encoded.labels, case.tensors[f"{number}.labels"])


def _image(
    case: Case, report: Report, number: int, record: Conversation, pixels: ClipImages, stored: dict[str, Any]
) -> None:
    absolute = case.data["tolerance"]["image"]["atol"]
    folder = case.folder / case.data["files"]["images"].split("/*")[0]
    # Without an image the published code makes a black one; here there is none, so its statistics are known.
    picture = None if record.image is None else record.read_image(folder)
    image = torch.zeros(3, pixels.size, pixels.size) if picture is None else pixels(picture)
    if f"{number}.image_grid" in case.tensors:
        report.close(f"{number}.image_grid", _grid(image), case.tensors[f"{number}.image_grid"], absolute=absolute)
    report.equal(f"{number}.image_shape", list(image.shape), stored["image_shape"])
    report.close(f"{number}.image_mean", image.mean((1, 2)), stored["image_mean"], absolute=absolute)
    report.close(f"{number}.image_std", image.std((1, 2)), stored["image_std"], absolute=absolute)
    black = np.zeros((pixels.size, pixels.size, 3), np.uint8)
    seen = black if picture is None else picture
    if "pil_size" in stored:
        report.equal(f"{number}.pil_size", [seen.shape[1], seen.shape[0]], stored["pil_size"])
        report.close(f"{number}.pil_mean", seen.mean(), stored["pil_mean"], absolute=1e-3)
    for key in ("seg_mask", "depth_mask", "gen_mask"):
        if key in stored:
            report.equal(f"{number}.{key}", int(picture is not None), stored[key])


def _batch(case: Case, report: Report, encoded: list[Encoded], has_image: list[bool], pad: int) -> None:
    """The published collator's rows: padded on the right, positions of padding masked out."""
    longest = max(len(sample.ids) for sample in encoded)
    ids = torch.full((len(encoded), longest), pad)
    labels = torch.full((len(encoded), longest), IGNORE)
    for row, sample in enumerate(encoded):
        ids[row, : len(sample.ids)] = torch.from_numpy(sample.ids)
        labels[row, : len(sample.ids)] = torch.from_numpy(sample.labels)
    ours: dict[str, Tensor] = {"input_ids": ids, "labels": labels, "attention_mask": (ids != pad).long()}
    for name in ("seg_mask", "depth_mask", "gen_mask"):
        ours[name] = torch.tensor(has_image).long()
    for name in [name for name in case.tensors if name.startswith("batch.")]:
        report.equal(name, ours[name.removeprefix("batch.")], case.tensors[name])


def probe(case: Case, report: Report) -> None:
    """COCO captions as probing reads them: the first caption of every image, one request for all."""
    path = case.folder / case.data["files"]["annotations"]
    parser = CaptionParser(path, requests=(PROBE_REQUEST,), answer="n", one_per_image=True, marker_last=True)
    tokenizer, limit = _tokenizer(case)
    pixels = _processor(case)
    with TemporaryDirectory() as cache:
        index = LlavaIndex(open_index(parser, Path(cache)))
        records = [index[position] for position in range(len(index))]
    stored = case.data["outputs"]["list"]
    below = Path(case.data["files"]["images"]).parent
    report.equal("images", [str(below / str(record.image)) for record in records], [item["image"] for item in stored])
    for number, record in enumerate(records):
        report.equal(f"{number}.answer", record.conversations[-1]["value"], "n")
        _record(case, report, number, record, tokenizer, limit)
        image = pixels(record.read_image(case.folder / below))
        absolute = case.data["tolerance"]["image"]["atol"]
        report.close(f"{number}.image_grid", _grid(image), case.tensors[f"{number}.image_grid"], absolute=absolute)


def sampler(case: Case, report: Report) -> None:
    """The order of a mixed set and of one of a single kind, with the stored permutations."""
    lengths = case.tensors["lengths"].numpy()
    batch, world = case.data["batch"], case.data["world_size"]
    for name, prefix, given in (("mixed", "mixed", lengths), ("single_modality", "single", np.abs(lengths))):
        stored = _stored(case, prefix)
        ours = group(given, batch, world, lambda size, stored=stored: _next(stored, size))
        report.equal(name, ours, case.tensors[name])
        report.equal(f"{name}, draws left", len(list(stored)), 0)
    report.covers(*(name for name in case.tensors if name == "lengths" or ".draw" in name))


def _stored(case: Case, prefix: str) -> Iterator[np.ndarray]:
    number = 0
    while f"{prefix}.draw{number}" in case.tensors:
        yield case.tensors[f"{prefix}.draw{number}"].numpy()
        number += 1


def _next(stored: Iterator[np.ndarray], size: int) -> np.ndarray:
    order = next(stored)
    assert len(order) == size, f"the published code permuted {len(order)} things here, ours asks for {size}"
    return order


def _grid(image: Tensor) -> Tensor:
    step = image.shape[-1] // GRID
    middles = slice(step // 2, None, step)
    return image[:, middles, middles]


def _encode(case: Case, record: Conversation, tokenizer: Any, limit: int | None) -> Encoded:
    style = template(case.data["template"])
    return encode(record.turns(style), style, tokenizer, limit, record.image is not None)


def _tokenizer(case: Case) -> tuple[Any, int]:
    """The tokenizer that a case names, and the maximum length it gives it."""
    described = case.data["tokenizer"]
    limit = re.search(r"model_max_length (\d+)", described)
    tokenizer = load_tokenizer(case.folder / described.split()[0], template=template(case.data["template"]))
    return tokenizer, int(limit[1]) if limit else MAX_LENGTH


def _processor(case: Case) -> ClipImages:
    """The image processor of a case: "CLIP 336" or "open_clip transform 768"; probing pads as the probed model does."""
    described = case.data.get("image_processor", "CLIP 336")
    size = int(re.findall(r"\d+", described)[-1])
    library = "torchvision" if "open_clip" in described else "transformers"
    return ClipImages(size, case.data.get("image_aspect_ratio", "pad"), library=library)


KINDS: dict[str, Check] = {
    "data_conversations": conversations,
    "data_pt": dataset,
    "data_ift": dataset,
    "data_vpt": dataset,
    "data_probe": probe,
    "data_sampler": sampler,
}
