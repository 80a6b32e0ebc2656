"""The truth files of evaluations, read whole."""

import json
from pathlib import Path
from typing import Any

from mmcore.errors import DataError, MissingDataError


def read_json(path: Path) -> Any:
    """A JSON file that is read whole.

    Raises:
        MissingDataError: it is not there.
        DataError: it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingDataError("the file is missing", where=path, do="check the data root") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def listed(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """A list of a COCO file, each of whose elements says which picture it is about.

    Raises:
        DataError: it is not there, empty, or an element lacks its id.
    """
    found = content.get(key) if isinstance(content, dict) else None
    wanted = ("id",) if key == "images" else ("image_id",)
    if not isinstance(found, list) or not found:
        raise DataError(f"the file has no list of {key}", where=path)
    if not all(isinstance(one, dict) and all(name in one for name in wanted) for one in found):
        raise DataError(f"an element of {key} has no {', '.join(wanted)}", where=path)
    return found
