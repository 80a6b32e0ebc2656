"""One question with its answer a record, as instruction tuning writes it; a JSON list or JSON Lines.

    Alpaca             {"instruction": "Name the thing.", "input": "", "output": "A cup.", "images": ["a.jpg"]}
                       (Stanford Alpaca; LLaMA-Factory adds `system`, `history` and `images`)
    query/response     {"query": "<image>What is it?", "response": "A cup.", "images": ["a.jpg"]}  (older ms-swift)

`input` follows the instruction on a line of its own. `history` holds earlier rounds as [question, answer] pairs.
Everything else is read as of other conversations (`mmcore.data.formats.spoken`).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmcore.data.formats import miniature
from mmcore.data.formats.format import Format, Written
from mmcore.data.formats.llava import LlavaParser
from mmcore.data.formats.spoken import ASKED_BY


def _write(kind: str, folder: Path) -> Written:
    miniature.write_pictures(folder / "images")
    records = []
    for scene in miniature.scenes():
        texts = "What is in the picture?", miniature.caption(scene)
        name: Mapping[str, Any] = {"images": [f"images/{miniature.file_name(scene)}"]}
        records.append({**dict(zip(ASKED_BY[kind], texts)), **({"input": ""} if kind == "Alpaca" else {}), **name})
    miniature.write_lines(folder / "chat.jsonl", records)
    return Written("chat.jsonl")


def _format(kind: str, short: str, title: str) -> Format:
    return Format(
        name=kind,
        short=(short,),
        metric="accuracy",
        title=title,
        content="conversations",
        tasks=("converse",),
        parser=lambda files, options: LlavaParser(files[0]),
        sniff=lambda glimpse: glimpse.records_have(*ASKED_BY[kind]),
        sample=partial(_write, kind),
    )


FORMATS = (
    _format(
        "Alpaca", "alpaca", "`instruction`, `input` and `output`, with `images`, `system` and `history` where wanted"
    ),
    _format(
        "query/response",
        "query",
        "`query` and `response` with `images`, `system` and `history`, as ms-swift wrote them",
    ),
)
