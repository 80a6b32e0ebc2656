"""An exported folder to the Hub. What failed goes on with the same command: the export stands, and the Hub skips what
it has.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcore.base import hub
from mmcore.errors import MissingDataError, MmcoreError, UsageError


def check_name(repository: str) -> None:
    """Refuse what cannot name a repository, before anything is written.

    Raises:
        UsageError: says why.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    plain = repository.removeprefix(hub.PREFIX)
    try:
        validate_repo_id(plain)
        fits = plain.count("/") == 1 and plain == repository
    except HFValidationError:
        fits = False
    if not fits:
        raise UsageError(
            f"{repository!r} cannot name a repository of the Hub",
            where="--push-to-hub",
            known="OWNER/NAME: letters, digits, - _ and .",
        )


def waiting(out: Path, what: dict[str, Any]) -> bool:
    """Whether an export of just this lies in the folder because its upload did not come to an end.

    Args:
        out: the export's folder.
        what: what it was exported from and how.
    """
    try:
        return json.loads(_note(out).read_text(encoding="utf-8")) == _fingerprint(out, what)
    except (OSError, ValueError):
        return False


def upload(out: Path, repository: str, what: dict[str, Any], *, private: bool, api: Any = None) -> str:
    """Upload the folder; returns its address. A note beside it says what waits while it is not there whole.

    Args:
        out: of the export.
        repository: OWNER/NAME; made where it is not there.
        what: as for `waiting`.
        private: make it a private one; one that exists stays as it is.
        api: of huggingface_hub; the real one where None.

    Raises:
        MmcoreError: the Hub refuses or cannot be reached; nothing of the export is lost.
    """
    from huggingface_hub import HfApi

    api = HfApi() if api is None else api
    _note(out).write_text(json.dumps(_fingerprint(out, what)), encoding="utf-8")
    _try(lambda: api.create_repo(repository, private=private or None, exist_ok=True), out, repository)
    said = f"mmcore export, {what.get('format')}, step {what.get('step')}"
    _try(lambda: api.upload_folder(repo_id=repository, folder_path=str(out), commit_message=said), out, repository)
    _note(out).unlink(missing_ok=True)
    return f"https://huggingface.co/{repository}"


def _try(call: Callable[[], Any], out: Path, repository: str) -> None:
    try:
        call()
    except KeyboardInterrupt:
        raise
    except Exception as error:  # the Hub's client raises what its transport raises
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
            what = f"the Hub lets nobody write to {repository} with this login"
            do = f"log in with `hf auth login` as somebody who may, then run the same command again; {out} stands"
        else:
            what = "the upload did not come to an end"
            do = f"run the same command again: {out} stands, and what the Hub has is not sent twice"
        kind: type[MmcoreError] = MissingDataError if hub.silence() else MmcoreError
        raise kind(f"{what}: {reason}", where=f"--push-to-hub {repository}", do=do) from error


def _fingerprint(out: Path, what: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, and the sizes of the files that answered it."""
    files = sorted((str(path.relative_to(out)), path.stat().st_size) for path in out.rglob("*") if path.is_file())
    return {**what, "files": hashlib.sha256(json.dumps(files).encode()).hexdigest()}


def _note(out: Path) -> Path:
    return out.parent / f".{out.name}.upload.json"
