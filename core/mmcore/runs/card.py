"""The card of an exported model: what it is, how it is opened, what it learned from, what it reached.

The head is what the Hub reads: licence, base model, kind of task. The licence is the user's to state; what is known is
where the weights came from.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.base import hub
from mmcore.base.figures import written
from mmcore.base.jsonfile import read_json_lines
from mmcore.base.yamltext import to_yaml
from mmcore.contract.recipe import Stage
from mmcore.errors import MmcoreError
from mmcore.runs.conversation import can_talk
from mmcore.runs.opened import OpenedModel
from mmcore.runs.settings import read_starts
from mmcore.version import DISTRIBUTION, __version__

NAME = "README.md"
PICTURE = "example.jpg"
LEFT_OPEN = "other"
"""The licence of a card where nobody stated one: the Hub's word for "see the text"."""


def write_card(
    opened: OpenedModel, folder: Path, tensors: str, *, use: str | None, licence: str | None, opens: bool
) -> None:
    """Write the card, with the newest picture that the run drew of itself.

    Args:
        opened: the exported model.
        folder: of the export.
        tensors: whose names its files have.
        use: what the card says on its use; None for a folder of mmcore's own.
        licence: an identifier that the Hub knows, such as "apache-2.0"; None leaves it to be stated.
        opens: whether `mmcore.load` opens the folder.
    """
    picture = newest_picture(opened.run_dir)
    if picture is not None:
        shutil.copyfile(picture, folder / PICTURE)
    parts = [
        _head(opened, licence, plain=use is not None and opens),
        _what(opened, tensors),
        "![Validation pictures: what it says, beside the truth](example.jpg)\n" if picture else "",
        (use or (_usage(opened) if opens else "")).strip("\n") + "\n",
        _training(opened),
        _classes(opened.settings.stage),
        _evaluation(opened.run_dir),
        _licence(opened, licence),
    ]
    (folder / NAME).write_text("\n".join(part for part in parts if part.strip()), encoding="utf-8")


def newest_picture(run_dir: Path | None) -> Path | None:
    """The last strip of validation pictures of a run."""
    found = list((run_dir / "pictures").glob("*/*.jpg")) if run_dir else []
    return max(found, key=lambda path: (path.name, path.parent.name), default=None)


def bases(run_dir: Path | None) -> list[str]:
    """Repositories of the Hub that a run's weights came from, `OWNER/NAME`, in the order of filling."""
    names: list[str] = []
    for start in read_starts(run_dir) if run_dir else []:
        weights = start.get("weights")
        for one in weights if isinstance(weights, list) else []:
            name = str(one.get("source", "") if isinstance(one, dict) else one)
            parts = name.removeprefix(hub.PREFIX).split("@")[0].split("/")
            if hub.is_hub(name) and len(parts) >= 2 and parts[0] not in ("spaces", "datasets"):
                names.append("/".join(parts[:2]))
    return list(dict.fromkeys(names))


def _head(opened: OpenedModel, licence: str | None, *, plain: bool) -> str:
    head: dict[str, Any] = {
        "license": licence or LEFT_OPEN,
        "library_name": "transformers" if plain else "mmcore",
        "pipeline_tag": "image-text-to-text" if can_talk(opened.model) else "object-detection",
        "tags": ["mmcore", opened.settings.plugin],
    }
    if named := bases(opened.run_dir):
        head["base_model"] = named if len(named) > 1 else named[0]
    return f"---\n{to_yaml(head).strip()}\n---\n"


def _what(opened: OpenedModel, tensors: str) -> str:
    settings, stage = opened.settings, opened.settings.stage
    return f"""# {settings.plugin} {settings.variant}, stage {stage.number} {stage.name}

{stage.title}.

Trained with mmcore {__version__} ({opened.family.plugin.label}), {opened.step} optimiser steps, seed {settings.seed}.
Recipe: {stage.origin}. Tensors: {tensors}.
"""


def _usage(opened: OpenedModel) -> str:
    """Lines that run as they stand, inside the folder."""
    asked = 'chat("photo.jpg", "What is in the picture?")'
    if can_talk(opened.model):
        return f"""## Use

```python
import mmcore  # {DISTRIBUTION} and {opened.family.plugin.distribution}

model = mmcore.load(".")  # this folder; elsewhere its path, or "hf://OWNER/NAME"
print(model.{asked})
```
"""
    return f"""## Use

```python
import mmcore  # {DISTRIBUTION} and {opened.family.plugin.distribution}

model = mmcore.load(".")  # this folder; elsewhere its path, or "hf://OWNER/NAME"
answer = model.predict("photo.jpg"{_asked(opened)})
print(answer.json()["objects"])
answer.draw().save("drawn.png")
```
"""


def _asked(opened: OpenedModel) -> str:
    """Which names are asked for; nothing where the model finds its own classes and no others."""
    names = list(opened.settings.stage.class_names[:2]) or ["person", "dog"]
    try:
        opened.model.prepare([np.zeros((64, 64, 3), np.uint8)], names=names)
    except MmcoreError:
        return ""
    return f", names={json.dumps(names, ensure_ascii=False)}"


def _training(opened: OpenedModel) -> str:
    settings = opened.settings
    sources = "\n".join(
        f"- {name}: {source.format}, weight {source.weight:g}"
        for name, source in settings.stage.data.sources.items()
        if settings.only is None or name in settings.only
    )
    return f"## Training data\n\n{sources}\n"


def _classes(stage: Stage) -> str:
    """The class names that the model answers with."""
    if not stage.class_names:
        return ""
    listed = "\n".join(f"{number}. {name}" for number, name in enumerate(stage.class_names, 1))
    return f"## Classes\n\n{listed}\n"


def _evaluation(run_dir: Path | None) -> str:
    rows = "\n".join(f"| {name} | {written(name, value)} |" for name, value in last_metrics(run_dir).items())
    return f"## Evaluation\n\n| metric | value |\n|---|---|\n{rows}\n" if rows else ""


def _licence(opened: OpenedModel, licence: str | None) -> str:
    if licence is not None:
        return ""
    named = ", ".join(bases(opened.run_dir)) or "the weights it started from"
    return (
        f"## Licence\n\nNot stated: {named} and the training data have terms of their own. State it in the head of "
        "this file, or export with `--license`.\n"
    )


def last_metrics(run_dir: Path | None) -> dict[str, float]:
    """The newest evaluation in a run's `metrics.jsonl`."""
    records = read_json_lines(run_dir / "metrics.jsonl", {"eval": dict}) if run_dir else []
    last: dict[str, Any] = next((record["eval"] for record in reversed(records) if record["eval"]), {})
    return {name: value for name, value in last.items() if isinstance(value, (int, float))}
