"""Banks of wordings: what is asked and answered where the annotations hold no conversation.

Of each bank one wording is drawn for a record. The banks of the core and of families are our own wording with the
placeholders of the published ones; `data.templates` names a file that replaces any of them, for those who want the
published prompts to the letter::

    captions:
      - Describe the image.
      - What does this picture show?
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcore.base.yamltext import read_yaml
from mmcore.errors import RecipeError, suggest

PLACEHOLDER = re.compile(r"\{\w+\}|<\w+(?: \w+)?>|\[[A-Z]+\]")
"""`{class_name}`, `<region>`, `<category set>`, `[SEG]`."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Wordings that say the same.

    Args:
        wordings: at least one.
        placeholders: what stands for something else in every wording, once each, such as `{class_name}`.
    """

    wordings: tuple[str, ...]
    placeholders: tuple[str, ...] = ()


def read_banks(text: str, placeholders: Mapping[str, tuple[str, ...]]) -> dict[str, Bank]:
    """A family's banks, of the JSON file that comes with it: bank -> list of wordings."""
    written = json.loads(text)
    return {name: Bank(tuple(written[name]), marks) for name, marks in placeholders.items()}


def replace_banks(banks: Mapping[str, Bank], path: Path) -> dict[str, Bank]:
    """The banks with those that a file names in its own wording; there may be more or fewer of them.

    Args:
        banks: of a family, by name.
        path: YAML or JSON, bank -> list of wordings.

    Raises:
        RecipeError: the file names another bank, or a wording is no text or has other placeholders; names both.
    """
    replaced = dict(banks)
    for name, wordings in read_yaml(path).items():
        if name not in banks:
            raise RecipeError(
                f"there is no bank of wordings {name!r}",
                where=f"{path} (data.templates)",
                known=banks,
                do=suggest(name, banks, "choose one of these"),
            )
        if not isinstance(wordings, list) or not wordings:
            raise RecipeError(f"bank {name!r} is no list of wordings", where=f"{path} (data.templates)")
        for number, wording in enumerate(wordings, 1):
            _check(wording, banks[name], f"{path}, {name}, wording {number} (data.templates)")
        replaced[name] = Bank(tuple(wordings), banks[name].placeholders)
    return replaced


def _check(wording: Any, bank: Bank, where: str) -> None:
    if not isinstance(wording, str) or not wording.strip():
        raise RecipeError(f"{wording!r} is no text", where=where, do="put it in quotes")
    found = sorted(PLACEHOLDER.findall(wording))
    if found != sorted(bank.placeholders):
        raise RecipeError(
            f"placeholders {', '.join(found) or 'none'}, where each wording of this bank has"
            f" {', '.join(bank.placeholders) or 'none'}",
            where=where,
            do=f"write it like {bank.wordings[0]!r}",
        )
