"""Files of the Hugging Face Hub under one kind of name: `hf://OWNER/NAME[@REVISION][/PATH]`.

A path with a suffix is a file, one without is a folder of the repository. Of repositories and folders only weights,
configurations and tokenizers are fetched, no code and no second copy in half precision.

Whether the Hub is asked at all is decided here, once: not with HF_HUB_OFFLINE, not while planning (`unasked`), and not
when it did not answer a first short try. Then only what is on this machine counts, and nothing waits.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mmcore.errors import MissingDataError, WeightsError

PREFIX = "hf://"
KEPT = ("*.safetensors", "pytorch_model*.bin", "*.json", "*.model", "*.txt")
"""What of a whole repository or folder is fetched."""
LEFT = ("*.fp16.*", "*.non_ema.*")
"""What is not, since another file says the same."""

TRY_SECONDS = 4.0
"""How long the one try may take in which the Hub must answer."""

_unasked = 0


class NotFetchedError(MissingDataError):
    """Something of the Hub that is not on this machine, and the Hub was deliberately not asked (`unasked`)."""


@contextmanager
def unasked() -> Generator[None, None, None]:
    """Inside, nobody asks the Hub: what is not on this machine is a `NotFetchedError`."""
    global _unasked
    _unasked += 1
    try:
        yield
    finally:
        _unasked -= 1


def silence() -> str | None:
    """Why the Hub is not to be asked, or None when it answers."""
    from huggingface_hub import constants

    if _unasked:
        return "only this machine is looked at now; a run fetches it at its start"
    if constants.HF_HUB_OFFLINE:
        return "offline mode is set (HF_HUB_OFFLINE)"
    return None if _answers() else f"no answer from {constants.ENDPOINT} within {TRY_SECONDS:g} s"


def missing(name: str, do: str) -> MissingDataError:
    """The error for a file or repository that is not on this machine while the Hub is silent."""
    kind = NotFetchedError if _unasked else MissingDataError
    return kind(f"not on this machine, and the Hub was not asked: {silence()}", where=name, do=do)


@cache
def _answers() -> bool:
    """Whether the Hub's address answers anything at all; tried once in a process, name resolution included."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=TRY_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)  # a resolver that hangs is left behind
    thread.start()
    thread.join(TRY_SECONDS)
    return answered.is_set()


def is_hub(name: str) -> bool:
    """Whether a place is one on the Hub."""
    return name.startswith(PREFIX)


def fetch(name: str, *, do: str) -> Path:
    """The local copy of a file, a folder or a repository, downloaded where it is not there yet.

    Args:
        name: `hf://...`.
        do: advice when it cannot be had.

    Raises:
        WeightsError: the name is none of the Hub's.
        MissingDataError: it is not there or the Hub cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if silence() is not None:
        if (found := fetched(name)) is not None:
            return found
        raise missing(name, do)
    try:
        return _get(name)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingDataError(f"cannot get this from the Hub: {said}", where=name, do=do) from None


def fetched(name: str) -> Path | None:
    """The local copy, or None when it was never downloaded or holds no weights; the Hub is not asked.

    Raises:
        WeightsError: the name is none of the Hub's.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = _get(name, local_files_only=True)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None
    complete = any(path.glob("*.safetensors")) or any(path.glob("*.bin")) if path.is_dir() else path.exists()
    return path if complete else None


def commit_of(path: Path) -> str:
    """The commit that a local copy is of, `unknown` when its place does not say."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def _get(name: str, **options: Any) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    kind, owner, repository, path = _parse(name)
    repository, _, revision = f"{owner}/{repository}".partition("@")
    options |= {"repo_type": kind, "revision": revision or None}
    if Path(path).suffix:
        return Path(hf_hub_download(repository, path, **options))
    kept = [f"{path}/{pattern}" if path else pattern for pattern in KEPT]
    return Path(snapshot_download(repository, allow_patterns=kept, ignore_patterns=list(LEFT), **options)) / path


def _parse(name: str) -> tuple[str, str, str, str]:
    parts = name.removeprefix(PREFIX).split("/")
    kind = {"spaces": "space", "datasets": "dataset"}.get(parts[0], "model")
    if kind != "model":
        parts = parts[1:]
    if len(parts) < 2 or not all(parts):
        raise WeightsError(
            "not a file or repository on the Hub",
            where=name,
            do="write hf://OWNER/NAME, hf://OWNER/NAME/FILE or hf://spaces/OWNER/NAME/FILE",
        )
    return kind, parts[0], parts[1], "/".join(parts[2:])
