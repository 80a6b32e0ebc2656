"""Files on disk to samples and batches: every data set through its recipe's entry, with the recorded draws played back.

The released code's draws are read off the case's trace in their order. Which record a sample is, is told by its picture
(and by its text where a picture has several); that part of the trace is left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmcore.contract.protocols import DataContext
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Draw, Encoded, Turn
from mmcore.data.conversations import ConversationSource
from mmcore.data.formats.coco_regions import MIN_SIDE_PX, MIN_WORDS
from mmcore.data.grounded import Grounded
from mmcore.data.images import read_facts
from mmcore.data.parts import Indexed
from mmcore.data.pictures import picture_at
from mmcore.language.conversation import MARKER
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE
from mmcore.parity import Case, Check, Report
from mmcore.vision.sam.pixels import normalised
from torch import Tensor

from mmcore_glamm import recipe_sources as published
from mmcore_glamm.data.assemble import LEARNS, Reader
from mmcore_glamm.data.dialogue import speak
from mmcore_glamm.data.sources import GroundedSource
from mmcore_glamm.recipes import GCG
from mmcore_glamm.tokens import IMAGE_TEXT

ENTRIES: Mapping[str, str] = {
    "GranDf": "grandf_gcg",
    "GranDf_random": "grandf_gcg",
    "PSG": "psg_gcg",
    "RefCOCOg": "refcocog_gcg",
    "Flickr": "flickr_gcg",
    "refcoco+": "refcoco_plus",
    "val": "refcoco",
    "RefCoco_Reg": "refcoco_reg",
    "RefCocoG_Reg": "refcocog_reg",
    "RefCocoP_Reg": "refcoco_plus_reg",
    "VisGen_Reg": "visual_genome_reg",
    "Flickr_Reg": "flickr_reg",
    "GrandRefer_Reg": "grand_regions",
    "CocoCap": "coco_captions",
    "LLaVaInstruct": "llava_instruct",
}
"""The released code's name of a data set -> its source in the recipes; the others are called alike."""
BANKS = {
    "SEG": "segment",
    "ANSWER": "answer",
    "CAPTION": "caption",
    "REGION": "region",
    "REGION_GROUP": "region_group",
    "GCG": "gcg",
}
ALL = {
    **published.REFERRING,
    **published.SEMANTICS,
    **published.GROUNDED,
    **published.REGIONS,
    **published.CAPTIONS,
    **published.PRETRAINING,
}
IMAGE_ROWS = 575
"""Rows that an image takes beyond its own token."""


class OtherDrawError(Exception):
    """The trace has another draw there, so that it belongs to another record or to other code."""


class Replayed:
    """The draws of a trace, in its order; those of records are left out."""

    def __init__(self, trace: Sequence[Sequence[Any]], skip: int = 0) -> None:
        self._left = [entry for entry in trace if entry[0] != "random.randint"][skip:]

    def _next(self, kind: str, count: int | None = None) -> Any:
        entry = self._left.pop(0) if self._left else ["the end"]
        if entry[0] != kind or (count is not None and entry[1] != count):
            raise OtherDrawError(f"{kind} of {count} is drawn where the trace has {entry}")
        return entry[-1]

    def one(self, count: int) -> int:
        """A number below `count`."""
        return int(self._next("random.choice", count))

    def some(self, count: int, most: int) -> list[int]:
        """Several numbers; in order, and undrawn, where there are fewer."""
        return list(self._next("numpy.choice", count)) if count >= most else list(range(count))

    def order(self, count: int) -> list[int]:
        """A permutation."""
        return list(self._next("torch.randperm", count))

    def coin(self) -> bool:
        """True under a half."""
        return self._next("random.random") < 0.5

    @property
    def finished(self) -> bool:
        """Whether every draw was played."""
        return not self._left


def data(case: Case, report: Report) -> None:
    """Every set of the case: its samples, then its batch."""
    with TemporaryDirectory() as scratch:
        reader = reader_of(case, Path(scratch))
        made: dict[str, list[ConversationSample]] = {}
        for name, stored in case.data["samples"].items():
            if "samples" in stored:
                made[name] = [sample_of(case, report, reader, name, stored, n) for n in range(len(stored["samples"]))]
                _order(report, reader, name, stored)
                if "batch" in stored:
                    _batch(case, report, reader, name, name, made[name], stored["batch"])
        _other_batches(case, report, reader, made)


def reader_of(case: Case, scratch: Path) -> Reader:
    """The recipe's reader over the case's files, with its tokenizer and its wordings."""
    model = {"tokenizer": str(_tokenizer(case, scratch)), "add_tokens": True, "published": {"cut_masks": True}}
    stage = GCG.replace(model=model, max_length=case.data.get("model_max_length", 1536))
    reader = Reader(stage, DataContext(case.folder / "data", scratch, "7b", 0), "train")
    given = case.data["template_banks"]
    reader.banks = {ours: tuple(given[theirs]) for theirs, ours in BANKS.items()}
    reader.banks["region_intro"] = (given["region_intro"],)
    return reader


def _tokenizer(case: Case, scratch: Path) -> Path:
    """The case's tokenizer in a folder of its own."""
    path = scratch / "tokenizer" / "tokenizer.model"
    path.parent.mkdir()
    path.write_bytes((case.folder / "tokenizer.model").read_bytes())
    return path


def _source(reader: Reader, name: str, stored: Mapping[str, Any]) -> GroundedSource | ConversationSource:
    entry = dict(ALL[ENTRIES.get(name, name)])
    options = dict(entry.get("options", {}))
    if entry["format"].endswith("GCG") or entry["format"] == "GranD-f":
        options["published_spans"] = True
    if "split" in stored:
        options["split"] = stored["split"]
    found = reader.source(
        reader.open(name, published.sources({name: entry | {"options": options}}, {name: 1.0})[name], LEARNS)
    )
    assert isinstance(found, GroundedSource | ConversationSource)
    return found


def sample_of(
    case: Case, report: Report, reader: Reader, name: str, stored: Mapping[str, Any], number: int
) -> ConversationSample:
    """One recorded sample of a set, compared with what the case stores of it."""
    wanted = stored["samples"][number]
    source = _source(reader, _part(name, wanted), stored)
    tag = f"{name}.{number}"
    best: tuple[ConversationSample, Replayed | None] | None = None
    others = ["no record has this picture"]
    for position in _positions(source, _picture(wanted["image_path"])):
        try:
            found, chance = _played(source, Draw(name, position, 0), wanted["trace"])
        except OtherDrawError as error:  # another record about the same picture
            others.append(str(error))
            continue
        if best is None or _text(reader, found) == wanted["conversation"]:
            best = (found, chance)
    assert best is not None, f"{tag}, {wanted['image_path']}: {others[-1]}"
    sample, chance = best
    report.equal(f"{tag}.conversation", _text(reader, sample), wanted["conversation"])
    report.equal(f"{tag}.draws played", chance is None or chance.finished, True)
    if isinstance(source, GroundedSource):
        _questions(report, source, tag, sample, wanted)
    _pictures(case, report, reader, tag, sample, wanted)
    return sample


def _played(
    source: GroundedSource | ConversationSource, draw: Draw, trace: Sequence[Sequence[Any]]
) -> tuple[ConversationSample, Replayed | None]:
    """A record's sample with the recorded draws.

    Raises:
        OtherDrawError: the record draws otherwise.
    """
    chance = None
    if isinstance(source, ConversationSource):
        found = source.sample(draw)
    else:
        # The released captions draw the annotation as they draw a wording.
        chance = Replayed(trace, skip=int(source.manner == "caption"))
        found = source.conversation(draw, chance)
    assert found is not None
    return found, chance


def _part(name: str, wanted: Mapping[str, Any]) -> str:
    """The data set of a sample: in a mixture of semantic sets the picture's folder tells."""
    if name in ENTRIES or name in ALL:
        return name
    path = wanted["image_path"]
    parts = {"ade20k": "ade20k", "mapillary": "mapillary", "pascal_part": "pascal_part", "paco": "paco_lvis"}
    found = next((ours for theirs, ours in parts.items() if theirs in path), "cocostuff")
    # COCO's pictures are shared; annotations of parts are told by their draws.
    return "paco_lvis" if found == "cocostuff" and wanted.get("masks_dtype") == "uint8" else found


def _picture(path: str) -> str:
    """The file name at the end of a path, which the released code makes a tuple of for sets of parts."""
    return re.findall(r"[^/'\" ]+\.\w+", path)[-1]


def _positions(source: GroundedSource | ConversationSource, picture: str) -> Iterator[int]:
    for position in range(len(source)):
        if Path(str(source.records[position].image)).name == picture:
            yield position


def _questions(
    report: Report, source: GroundedSource, tag: str, sample: ConversationSample, wanted: Mapping[str, Any]
) -> None:
    spoken = speak(
        source.records[sample.draw.position],
        source.manner,
        source.most,
        source.banks,
        Replayed(wanted["trace"], skip=int(source.manner == "caption")),
    )
    assert spoken is not None
    if source.manner == "caption":
        report.equal(f"{tag}.classes", [spoken.turns[1].text], wanted["classes"])
        return
    asked = spoken.asked[:1] if source.manner == "region_group" else spoken.asked
    report.equal(f"{tag}.questions", asked, wanted["questions"])
    classes = [part.text for part in spoken.parts]
    report.equal(f"{tag}.classes", classes[: len(wanted["classes"])], wanted["classes"])


def _text(reader: Reader, sample: ConversationSample) -> str:
    return reader.processor.template.render(sample.turns).replace(IMAGE_TEXT, MARKER)


def _pictures(
    case: Case, report: Report, reader: Reader, tag: str, sample: ConversationSample, wanted: Mapping[str, Any]
) -> None:
    """What the encoders see, the boxes and the masks."""
    limit = case.data["tolerances"]["clip_and_sam_pixels"]["atol"]
    clip = sample.images[MAIN][0]
    report.close(f"{tag}.clip", clip[:, ::24, ::24], case.tensors[f"{tag}.clip"], absolute=limit)
    report.close(f"{tag}.clip_stats", _stats(clip), case.tensors[f"{tag}.clip_stats"], absolute=limit)
    if f"{tag}.sam" in case.tensors:
        packed = sample.images[SEGMENT][0]
        sam = normalised(packed[None])[0]
        report.close(f"{tag}.sam", sam[:, ::64, ::64], case.tensors[f"{tag}.sam"], absolute=limit)
        report.close(f"{tag}.sam_stats", _stats(sam), case.tensors[f"{tag}.sam_stats"], absolute=limit)
        shown = packed[3] > 0
        size = [int(shown.any(1).sum()), int(shown.any(0).sum())]
        report.equal(f"{tag}.resize", size, wanted["resize"])
    if f"{tag}.masks" in case.tensors:
        masks = torch.stack([region.mask for region in sample.regions if region.mask is not None])
        report.equal(f"{tag}.masks", masks, case.tensors[f"{tag}.masks"])
    if wanted.get("label"):
        report.equal(f"{tag}.label shape", list(sample.original_size), wanted["label"]["shape"])
    if f"{tag}.boxes" in case.tensors:
        height, width = sample.original_size
        boxes = np.array([region.box_xyxy for region in sample.regions], np.float32).reshape(-1, 4)
        scaled = boxes / np.array([width, height, width, height], np.float32)
        report.close(f"{tag}.boxes", scaled, case.tensors[f"{tag}.boxes"], absolute=case.data["tolerances"]["boxes"])


def _stats(pixels: Tensor) -> Tensor:
    """Mean, deviation, least and largest value."""
    return torch.stack([pixels.mean(), pixels.std(), pixels.min(), pixels.max()])


def _order(report: Report, reader: Reader, name: str, stored: Mapping[str, Any]) -> None:
    """Which records there are, in which order, where the case says it."""
    if "image_order" in stored:
        source = _source(reader, name, stored)
        order = [source.records[n].id for n in range(len(source))]  # type: ignore[union-attr]
        report.equal(f"{name}.image_order", order, stored["image_order"])
    if "length" in stored:
        source = _source(reader, name, stored)
        report.equal(f"{name}.length", len(source) + _nothing_asked(source), stored["length"])
    if stored.get("file_order") and name in ALL:
        # The released lists are in the order of the directory; ours are sorted.
        source = _source(reader, name, stored)
        names = sorted(Path(str(source.records[n].image)).name for n in range(len(source)))
        report.equal(f"{name}.files", names, sorted(Path(one).name for one in stored["file_order"]))


def _nothing_asked(source: GroundedSource | ConversationSource) -> int:
    """Pictures of which nothing can be asked; the released code counts them, and stops or says nothing.

    It counts those of a fair size whose caption has three words or more; of Flickr30k's regions all.
    """
    if not isinstance(source, GroundedSource) or not isinstance(source.records, Indexed):
        return 0
    index, count = source.records.index, 0
    for row in np.flatnonzero(np.asarray(index.column("parts")) == 0).tolist():
        record = Grounded.from_bytes(index[row])
        facts = read_facts(picture_at(source.images, record.image))
        short = source.manner == "gcg" and len(record.caption.split(" ")) < MIN_WORDS
        fair = min(facts.height, facts.width) >= MIN_SIDE_PX and not short
        count += fair or source.manner == "region_group"
    return count


def _batch(
    case: Case,
    report: Report,
    reader: Reader,
    name: str,
    prefix: str,
    samples: Sequence[ConversationSample],
    stored: Mapping[str, Any],
) -> None:
    texts = [reader.processor.template.render(sample.turns) for sample in samples]
    report.equal(f"{name}.batch.conversation_list", texts, stored["conversation_list"])
    absent = _absent(samples)
    report.equal(f"{name}.batch.none_fields", absent, stored["none_fields"])
    _rows(case, report, prefix, [sample.encoded for sample in samples])


def _absent(samples: Sequence[ConversationSample]) -> list[str]:
    """The fields of the released batch that have nothing, going by the first sample as it does."""
    first = samples[0]
    segment, boxes = SEGMENT in first.images, bool(first.prompts)
    wanted = {"grounding_enc_images": segment, "bboxes": boxes, "label_list": segment, "resize_list": segment}
    return [name for name, there in wanted.items() if not there]


def _rows(case: Case, report: Report, prefix: str, encoded: Sequence[Encoded], cut: int | None = None) -> None:
    """Ids, labels and attention padded on the right, cut as the released collator cuts."""
    length = max(len(one.ids) for one in encoded)
    ids, labels = torch.zeros(len(encoded), length, dtype=torch.int64), torch.full((len(encoded), length), IGNORE)
    for row, one in enumerate(encoded):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
        labels[row, : len(one.labels)] = torch.from_numpy(one.labels)
    valid = torch.arange(length) < torch.tensor([len(one.ids) for one in encoded])[:, None]
    report.equal(f"{prefix}.batch.input_ids", ids[:, :cut], case.tensors[f"{prefix}.batch.input_ids"])
    report.equal(f"{prefix}.batch.labels", labels[:, :cut], case.tensors[f"{prefix}.batch.labels"])
    report.equal(f"{prefix}.batch.attention_masks", valid[:, :cut], case.tensors[f"{prefix}.batch.attention_masks"])
    report.equal(f"{prefix}.batch.offset", list(range(len(encoded) + 1)), case.tensors[f"{prefix}.batch.offset"])


def _other_batches(case: Case, report: Report, reader: Reader, made: Mapping[str, list[ConversationSample]]) -> None:
    """Captions beside questions, and a text that the longest length cuts."""
    stored = case.data["samples"]
    if "mixed_batch" not in stored:
        return
    mixed = [made["CocoCap"][0], made["LLaVaInstruct"][0]]
    _batch(case, report, reader, "mixed_batch", "mixed", mixed, stored["mixed_batch"])
    limit = stored["truncated_batch"]["model_max_length"]
    short = replace(reader.processor.template, first="A. USER: ")
    asked = f"The {IMAGE_TEXT} provides an overview of the picture.\nGo."
    words, count, end = _repeated(stored["truncated_batch"]["long_answer"])
    turns = (Turn("user", asked), Turn("assistant", words * count + end))
    long = encode(turns, short, reader.processor.tokenizer)
    _rows(case, report, "truncated", [long, made["LLaVaInstruct"][0].encoded], limit - IMAGE_ROWS)
    report.equal("truncated_batch.none_fields", _absent(mixed), stored["truncated_batch"]["none_fields"])


def _repeated(expression: str) -> tuple[str, int, str]:
    """Of `'words ' * 30 + 'end'` the words, the number and the end."""
    words, _, rest = expression.partition(" * ")
    count, _, end = rest.partition(" + ")
    return words.strip("'"), int(count), end.strip("'")


KINDS: dict[str, Check] = {"data_": data}
