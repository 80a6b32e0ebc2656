"""What a run leaves behind to be read: `metrics.jsonl`, `log.txt` and TensorBoard events, written by the first process.

`metrics.jsonl` has one JSON object a line: of a training step (`step`, `total`, `losses`, `lr` by group, `grad_norm`,
`samples`, `skipped`, `timing`), of an evaluation (`step`, `eval`, `timing`, and `failed` with the reason when it gave
nothing), or the reason why a run ended before its last step (`step`, `ended`). Everything but `timing` is a function of
the recipe, the data and the seed; a resumed run cuts the lines past its checkpoint, so that the file without `timing`
equals that of a run that was never interrupted.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mmcore.base.failure import full_text
from mmcore.base.files import replace_text
from mmcore.base.jsonfile import parse_json, read_regular
from mmcore.train.stored import name_of

if TYPE_CHECKING:
    from mmcore.train.track import Tracker

METRICS_NAME = "metrics.jsonl"
LOG_NAME = "log.txt"


OpenTracker = Callable[[Callable[[str], None]], "Tracker"]


class Recorder:
    """Appends to the three records of a run folder.

    Args:
        run_dir: created by the caller.
        step: the checkpoint that the run continues from; later lines are cut.
        tensorboard: whether to write TensorBoard events under `tensorboard/`.
        settings: of the run as text, for TensorBoard.
        open_tracker: opens an experiment tracker, given where to say what goes wrong.
    """

    def __init__(
        self,
        run_dir: Path,
        step: int,
        *,
        tensorboard: bool = True,
        settings: str = "",
        open_tracker: "OpenTracker | None" = None,
    ) -> None:
        self._path = run_dir / METRICS_NAME
        cut(self._path, step)
        with contextlib.ExitStack() as opened:
            self._metrics = opened.enter_context(_lines(self._path))
            self._log = opened.enter_context(_lines(run_dir / LOG_NAME))
            self._board = _board(run_dir / "tensorboard", step) if tensorboard else None
            if self._board is not None and settings:
                self._board.add_text("settings", f"```yaml\n{settings}\n```", step)
            self._tracker = open_tracker(self.say) if open_tracker else None
            opened.pop_all()  # see close

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; numbers that are not finite become null."""
        self._metrics.write(json.dumps(_finite(record)) + "\n")
        if self._board is not None:
            for name, value in _flat(record, ""):
                self._board.add_scalar(name, value, int(record["step"]))
        if self._tracker is not None:
            self._tracker.log(dict(_flat(record, "")), int(record["step"]))

    def pictures(self, step: int) -> None:
        """Hand the pictures of a step, and what was said in them, to TensorBoard."""
        if self._board is None:
            return
        for path in sorted((self._path.parent / "pictures").glob(f"*/{name_of(step)}.jpg")):
            import numpy as np
            from PIL import Image

            name = f"validation/{path.parent.name}"
            self._board.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
            if (words := path.with_suffix(".json")).exists():
                said = json.loads(words.read_text(encoding="utf-8"))
                self._board.add_text(name, _table(said), step)

    def evaluation(self, step: int) -> dict[str, float | None] | None:
        """The metrics that a resumed run had found at its checkpoint's step, or None."""
        records = read(self._path)
        return next(
            (record["eval"] for record in reversed(records) if "eval" in record and record["step"] == step), None
        )

    def ended(self) -> str | None:
        """Why the run ended before its last step, where its records end with that."""
        records = read(self._path)
        return records[-1].get("ended") if records else None

    def say(self, text: str) -> None:
        """Append to `log.txt`, with the time of day."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def sync(self) -> None:
        """Force the metrics to disk; called before a checkpoint that promises them."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        self._metrics.close()
        if self._tracker is not None:
            self._tracker.close()
        self._log.close()
        if self._board is not None:
            self._board.close()


def _table(said: list[dict[str, str]]) -> str:
    """Records of text with the same entries as a Markdown table."""
    names = list(said[0]) if said else []
    rows = [names, ["---"] * len(names), *([one.get(name, "") for name in names] for one in said)]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _lines(path: Path) -> TextIO:
    return open(path, "a", encoding="utf-8", buffering=1)


def log_failure(run_dir: Path, error: BaseException, rank: int) -> None:
    """Append why a process ended to the run's `log.txt`; with its traceback where no message was written for it."""
    with contextlib.suppress(OSError), open(run_dir / LOG_NAME, "a", encoding="utf-8", errors="replace") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} rank {rank}: {full_text(error)}\n")


def cut(path: Path, step: int) -> None:
    """Remove the lines of a `metrics.jsonl` past `step`, a failed evaluation at it, and a half-written last line."""
    if not path.exists():
        return
    kept = [
        line
        for record, line in read_lines(path)
        if record["step"] < step or (record["step"] == step and "failed" not in record)
    ]
    text = "".join(line + "\n" for line in kept)
    if text != path.read_text(encoding="utf-8", errors="replace"):
        replace_text(path, text)


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none when there is no file."""
    return [record for record, _ in read_lines(path)]


def read_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Records with their lines, up to the first that is not whole; none when the file cannot be read."""
    try:
        text = read_regular(path).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return []
    result = []
    for line in text.splitlines():
        try:
            record = parse_json(line, {"step": int})
        except ValueError:
            break
        result.append((record, line))
    return result


def _board(folder: Path, step: int) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own imports warn about themselves
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _flat(record: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            found.append((f"{prefix}{key}", float(value)))
    return found
