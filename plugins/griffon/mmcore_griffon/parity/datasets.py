"""The kinds of data on the case's files: what is said, its tokens, pictures and examples, lengths, one batch.

Wording, classes and example are drawn by generators that nobody can repeat (the order of sets); they are taken from the
recorded questions, and everything that follows from them is compared.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmcore.data.formats.box_lines import LineParser, LineScenes
from mmcore.data.formats.llava import LlavaIndex
from mmcore.data.images import read_image
from mmcore.data.index import open_index
from mmcore.data.named_boxes import Scene
from mmcore.data.names import enumerated
from mmcore.data.pictures import cut_out
from mmcore.data.shares import kept
from mmcore.language.labels import encode
from mmcore.language.sequence import IGNORE, Encoded
from mmcore.language.tokens import load_tokenizer
from mmcore.parity import Case, Check, Report
from mmcore.vision.clip_images import ClipImages

from mmcore_griffon.data.list_file import Line, Share, read_list
from mmcore_griffon.data.questions import Asked, description, detection, expression, in_front, listed, similar
from mmcore_griffon.data.sources import WORDS_PER_BOX
from mmcore_griffon.data.wordings import NAMED_FORMAT
from mmcore_griffon.parity.conversations import MARKERS, style_of, turns_of

TEMPLATES = {"DET": "nvn", "RANDDET": "1vn", "VG": "1vn", "REG": "REG", "VISJ": "visual_search"}
"""Kind -> the published file of its wordings, which a case replaces by invented ones."""
TASKS = {"LAZY": 1, "VISJ": 3}
"""Number of a kind's task in the published sampler; 2 elsewhere, 0 without a picture."""
IMAGE_WORDS, PIXELS = 128, 1e-5


class Set:
    """The files of a case, opened."""

    def __init__(self, case: Case, cache: Path) -> None:
        self.folder = case.folder
        if other := re.search(r"of case (\w+)", case.data["dataset"]):
            self.folder = case.folder.parent / other[1]  # another tokenizer on the same files
        self.lines = self.listed("multi.txt")
        self.records: dict[str, Any] = {line.name: self._open(line, cache) for line in self.lines}
        self.wordings = {
            kind: json.loads((self.folder / "templates" / f"{name}.json").read_text())
            for kind, name in TEMPLATES.items()
        }

    def listed(self, name: str) -> list[Line]:
        """The lines of a list."""
        return [one for one in read_list(self.folder / "dataset" / name) if isinstance(one, Line)]

    def _open(self, line: Line, cache: Path) -> Any:
        path = self.folder / line.annotation
        if line.type == "LAZY":
            return LlavaIndex.open(path, cache)
        return LineScenes(open_index(LineParser(path, line.type, 1e9), cache))  # type: ignore[arg-type]

    def lengths(self, mode: str) -> list[Any]:
        """Of all records in the order of the list, in one of the published modes."""
        return [length for line in self.lines for length in self._of(line, mode)]

    def _of(self, line: Line, mode: str) -> list[Any]:
        records, task = self.records[line.name], TASKS.get(line.type, 2)
        if line.type == "LAZY":
            words = np.asarray(records.lengths(), np.int64).tolist()
            pictured = {"lengths": lambda n: abs(n) + IMAGE_WORDS * (n > 0), "modality_lengths": lambda n: n}
            return [[task * (n > 0), abs(n)] if mode == "task_lengths" else pictured[mode](n) for n in words]
        boxes = np.ones(len(records), int) if line.type == "REG" else records.num_boxes()
        counted = (WORDS_PER_BOX * boxes).tolist()
        if mode == "task_lengths":
            return [[task, n] for n in counted]
        if mode == "modality_lengths" and line.type == "VISJ":
            return [-n for n in counted]  # there grouped with text alone
        return [n + IMAGE_WORDS for n in counted]


def datasets(case: Case, report: Report) -> None:
    """Every recorded access of every line of the list."""
    tokenizer = load_tokenizer(_tokenizer(case), pad="unknown")
    with TemporaryDirectory() as cache:
        files = Set(case, Path(cache))
        rows = {}
        for record in case.data["records"]:
            name = f"{record['line']}.{record['access']}"
            rows[name] = _access(case, report, name, record, files, tokenizer)
        _lengths(case, report, files)
    shown = [int(name.startswith("VISJ")) for name in case.data["batch_of"]]
    report.equal("batch.regions_nonzero", shown, case.tensors["batch.regions_nonzero"])
    for batch in sorted({name.partition(".")[0] for name in case.tensors if name.startswith("batch")}):
        cut = batch.removeprefix("batch")  # the longest length that the collator was told
        _batch(case, report, batch, [rows[name] for name in case.data["batch_of"]], int(cut) if cut else None)


def _tokenizer(case: Case) -> Path:
    own = case.folder / "tokenizer"
    return own if own.is_dir() else case.folder.parent / f"conv_{case.data['tokenizer']}" / "tokenizer"


def _access(case: Case, report: Report, name: str, record: Mapping[str, Any], files: Set, tokenizer: Any) -> Encoded:
    kind, data = record["line"].partition("_")[0], files.records[record["line"]]
    found = data[record["index"]]
    style = style_of(case.data["version"])
    if kind == "LAZY":
        said, image, example = [(turn["from"], turn["value"]) for turn in found.conversations], found.image, None
    else:
        asked = _asked(kind, found, record, files, case.data["image_size"])
        report.equal(f"{name}.question", asked.question, record["conversations"][0]["value"])
        report.equal(f"{name}.answer", asked.answer, record["conversations"][1]["value"])
        report.equal(f"{name}.image_file", found.image, record["image_file"])
        said, image, example = [("human", asked.question), ("gpt", asked.answer)], found.image, asked.example
    turns = turns_of(said, style, has_image=image is not None)
    encoded = encode(turns, style, tokenizer, None, image is not None, MARKERS)
    report.equal(f"{name}.input_ids", encoded.ids, case.tensors[f"{name}.input_ids"])
    report.equal(f"{name}.labels", encoded.labels, case.tensors[f"{name}.labels"])
    report.equal(f"{name}.supervised", int((encoded.labels != IGNORE).sum()), record["supervised"])
    _pictures(case, report, name, record, files, image, example)
    return encoded


def _asked(kind: str, scene: Scene, record: Mapping[str, Any], files: Set, side: int) -> Asked:
    """The question of a record as it was drawn there."""
    said = record["conversations"][0]["value"]
    for wording in files.wordings[kind]:
        match kind:
            case "DET":
                asked = detection(scene, wording, _between(said, wording + NAMED_FORMAT, "<category set>"), side)
            case "RANDDET":
                (named,) = _between(said, in_front(wording), "<expr>", None)
                asked = listed(scene, wording, _spoken(named, list(dict.fromkeys(scene.names))), side)
            case "VG":
                asked = expression(scene, wording, 0, side)
            case "REG":
                asked = description(scene, wording, 0, side)
            case _:
                asked = _shown(scene, wording, tuple(record["region_bbox"]), record["conversations"][1]["value"], side)
        if asked.question == said:
            return asked
    return asked  # none fits: told by the comparison


def _between(said: str, wording: str, placeholder: str, separator: str | None = ", ") -> list[str]:
    """The names that stand in the place of a placeholder; none where the wording is another."""
    before, _, after = wording.partition(placeholder)
    if not (said.startswith(before) and said.endswith(after)):
        return ["?"]
    between = said[len(before) : len(said) - len(after)]
    return [between] if separator is None else between.split(separator)


def _spoken(said: str, names: list[str]) -> list[str]:
    """The order in which names are said as "a and b" or "a, b, and c", whatever stands within them."""
    return next((order for order in _orders(said, names) if enumerated(order) == said), names)


def _orders(said: str, names: list[str]) -> Iterator[list[str]]:
    """Every order in which a text may say these names."""
    if not names and not said:
        yield []
    for name in names:
        rest, others = said.removeprefix(name), [one for one in names if one != name]
        for between in (", and ", ", ", " and ", ""):
            if rest != said and rest.startswith(between):
                yield from ([name, *tail] for tail in _orders(rest.removeprefix(between), others))


def _shown(scene: Scene, wording: str, box: tuple[float, ...], answer: str, side: int) -> Asked:
    """The object whose box was shown; of several with that box the one that was answered."""
    several = [(n, boxes.index(box)) for n, boxes in enumerate(scene.boxes) if box in boxes]  # type: ignore[arg-type]
    found = [similar(scene, wording, number, place, side) for number, place in several]
    return next((asked for asked in found if asked.answer == answer), found[0])


def _pictures(
    case: Case,
    report: Report,
    name: str,
    record: Mapping[str, Any],
    files: Set,
    image: str | None,
    example: Any,
) -> None:
    side, small = case.data["image_size"], case.data["region_size"]
    whole = torch.zeros(3, side, side)
    rgb = None if image is None else read_image(files.folder / record["path_image_folder"] / image)
    if rgb is not None:
        whole = ClipImages(side, "squash", resample="bilinear")(rgb)
    seen = {"image": whole}
    if rgb is not None and example is not None:
        crop = cut_out(rgb, (rgb.shape[0], rgb.shape[1]), example)
        seen["region"] = ClipImages(small, "squash", resample="bilinear")(crop)
    for key, pixels in seen.items():
        if f"{name}.{key}" in case.tensors:
            report.close(f"{name}.{key}", pixels, case.tensors[f"{name}.{key}"], absolute=PIXELS)
        stored = record.get(f"{key}_stats")
        if stored is not None:
            report.equal(f"{name}.{key}_stats.shape", list(pixels.shape), stored["shape"])
            for statistic in ("mean", "std", "min", "max"):
                ours = float(getattr(pixels, statistic)())
                report.close(f"{name}.{key}_stats.{statistic}", ours, stored[statistic], absolute=PIXELS)


def _lengths(case: Case, report: Report, files: Set) -> None:
    data = case.data
    for mode in ("lengths", "modality_lengths", "task_lengths"):
        report.equal(mode, files.lengths(mode), data[mode])
    report.equal("total", len(files.lengths("lengths")), data["total"])
    for mode in ("lengths", "modality_lengths"):
        found: list[int] = []
        for part in read_list(files.folder / "dataset" / "balance.txt"):
            assert isinstance(part, Share)
            names = {line.name for line in files.listed(Path(part.path).name)}
            every = [n for line in files.lines if line.name in names for n in files._of(line, mode)]
            places = kept(len(every), part.share).tolist()
            found += [every[place] for place in places]
        report.equal(f"balanced.{mode}", found, data["balanced"][mode])
    places = kept(data["total"], _first_share(files)).tolist()
    report.equal("balanced.first_part_indices", places, data["balanced"]["first_part_indices"])


def _first_share(files: Set) -> float:
    first = read_list(files.folder / "dataset" / "balance.txt")[0]
    assert isinstance(first, Share)
    return first.share


def _batch(case: Case, report: Report, name: str, rows: list[Encoded], longest: int | None) -> None:
    """The published collator's rows: padded on the case's side, then cut on the right."""
    pad, side = case.data["pad_token_id"] or 0, case.data["padding_side"]
    length = max(len(row.ids) for row in rows)
    ids, labels = torch.full((len(rows), length), pad), torch.full((len(rows), length), IGNORE)
    for number, row in enumerate(rows):
        where = slice(length - len(row.ids), length) if side == "left" else slice(0, len(row.ids))
        ids[number, where], labels[number, where] = torch.from_numpy(row.ids), torch.from_numpy(row.labels)
    cut = slice(None, longest)
    ours = {"input_ids": ids[:, cut], "labels": labels[:, cut], "attention_mask": (ids != pad)[:, cut]}
    for key, value in ours.items():
        stored = f"{name}.{key}"
        if stored in case.tensors:
            report.equal(stored, value.to(case.tensors[stored].dtype), case.tensors[stored])


KINDS: dict[str, Check] = {"data_": datasets}
