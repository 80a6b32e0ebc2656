"""The evaluations of a run: when they are due, what they found, which step was best, and what happens when one fails.

A step is saved before it is evaluated. What an evaluation found stands in `metrics.jsonl`; a run that goes on from such
a checkpoint takes it from there, or evaluates when it had not come to that, and so is what it would have been.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan, nan
from pathlib import Path

from torch import nn

from mmcore.base import distributed
from mmcore.base.figures import is_error
from mmcore.contract.recipe import Stage
from mmcore.errors import MmcoreError, Stopped
from mmcore.train import stored
from mmcore.train.engine import Engine
from mmcore.train.metrics import Recorder
from mmcore.train.progress import brief

Evaluate = Callable[[nn.Module, int], Mapping[str, float]]
"""Model (whole weights, eval mode) and finished steps -> metrics, on every process."""


@dataclass(slots=True)
class Position:
    """Everything of a run's state that is not a tensor of the engine."""

    step: int = 0
    samples: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Evaluations in a row that gave nothing better than the best."""
    metrics: dict[str, float] = field(default_factory=dict)


class Evaluations:
    """Evaluates the steps of a run and keeps `best` pointing to the right checkpoint.

    Args:
        run_dir: the run folder.
        stage: says when, and which metric decides.
        evaluate: the evaluation; None where the run has none.
        stop_step: always evaluated.
        position: of the run; its metrics and best step are kept up to date.
        recorder: of the first process, None on the others.
        say: shows and logs a line.
    """

    def __init__(
        self,
        run_dir: Path,
        stage: Stage,
        evaluate: Evaluate | None,
        stop_step: int,
        position: Position,
        recorder: Recorder | None,
        say: Callable[[str], None],
    ) -> None:
        self.run_dir, self.stage, self.evaluate, self.stop_step = run_dir, stage, evaluate, stop_step
        self.position, self.recorder, self.say = position, recorder, say
        self.failed: str | None = None
        """Why the last evaluation gave nothing."""

    @property
    def exhausted(self) -> bool:
        """Whether the recipe's patience is at its end."""
        return self.stage.patience is not None and self.position.stale >= self.stage.patience

    def due(self) -> bool:
        """Whether the step that the run stands at is to be evaluated."""
        step = self.position.step
        return self.evaluate is not None and (step == self.stop_step or due(self.stage.eval_every, step))

    def catch_up(self, engine: Engine) -> None:
        """After a resume: the evaluation that the checkpoint was saved before, from the records or made now."""
        found = self.recorder.evaluation(self.position.step) if self.recorder else None
        if (known := distributed.broadcast_json(found)) is not None:
            self._take(known)
        elif self.due():
            self.run(engine)

    def run(self, engine: Engine) -> None:
        """Evaluate a step that has been saved; a failure is told and recorded, and training goes on.

        Raises:
            Stopped: a signal ended it; nothing is recorded, so a resumed run makes it up.
        """
        assert self.evaluate is not None
        began, step, metrics, failure = time.monotonic(), self.position.step, {}, None
        engine.model.eval()
        try:
            with engine.evaluating():
                metrics = dict(self.evaluate(engine.model, step))
        except Stopped:
            raise
        except Exception as error:
            if distributed.place().world_size > 1 and not isinstance(error, MmcoreError):
                raise  # the others may be in the middle of it; an MmcoreError is met by all of them alike
            failure = failure_text(error)
        metrics, self.failed = distributed.broadcast_json([metrics, failure])
        if self.recorder is not None:
            outcome = {} if self.failed is None else {"failed": self.failed}
            timing = {"seconds": round(time.monotonic() - began, 3)}
            self.recorder.write({"step": step, "eval": metrics, **outcome, "timing": timing})
            self.recorder.pictures(step)
        found = brief(metrics) or "no metric is defined: the validation sets have nothing to find, or only crowds"
        self.say(f"step {step}: {found if self.failed is None else f'evaluation failed: {self.failed}'}")
        self._take(metrics)

    def _take(self, metrics: Mapping[str, float | None]) -> None:
        """Make an evaluation's metrics those of this step, and this step the best where it is."""
        position, name = self.position, self.stage.best_metric
        # As `metrics.jsonl` gives them back: what is not finite is not a number.
        known = {key: nan if value is None or not isfinite(value) else value for key, value in metrics.items()}
        position.metrics = known
        if name is not None and known and name not in known:
            self.say(f"step {position.step} cannot be the best: no {name} among {', '.join(known)}")
        if name in known and self._is_better(known[name]):
            position.best, position.best_step, position.stale = known[name], position.step, 0
        elif name in known:
            position.stale += 1
        if distributed.place().is_first:
            stored.mark_best(self.run_dir, position.best_step)

    def _is_better(self, value: float) -> bool:
        best = self.position.best
        if best is None or isnan(best):
            return not isnan(value)
        return value < best if is_error(str(self.stage.best_metric)) else value > best


def failure_text(error: BaseException) -> str:
    """Why something failed, for a line that is read without its traceback: kind, message, and the place in the code."""
    if isinstance(error, MmcoreError):
        return f"{type(error).__name__}: {error}"
    trace = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(trace[-1].filename).name}:{trace[-1].lineno} in {trace[-1].name})" if trace else ""
    return f"{type(error).__name__}: {error}{place}"


def due(every: float | None, step: int) -> bool:
    """Whether something that happens every so many steps, shares being settled, happens at this one."""
    return every is not None and step % every == 0
