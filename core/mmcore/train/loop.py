"""The training loop, top to bottom: draw, forward, normalise, backward, guard, step, log, save, evaluate.

A run is a function of its recipe, data and seed: what a step draws and which random numbers its forward pass sees
depend on the position alone (`mmcore.data.order`, `_seed`), so a checkpoint holds no generator state and a run that
was killed anywhere continues as if it had not been.

A step that is evaluated is saved first, so that no evaluation can cost a run. What it found stands in `metrics.jsonl`;
a run that goes on from such a checkpoint takes it from there, or evaluates if it had not come to that.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmcore.base import distributed
from mmcore.base.hashing import mix, name_key
from mmcore.base.lock import run_lock
from mmcore.base.signals import StopSignals
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch
from mmcore.errors import CheckpointError, RecipeError, Stopped
from mmcore.train import checkpoint, schedule, stored
from mmcore.train.engine import Engine, PlainEngine
from mmcore.train.evaluations import Evaluate, Evaluations, Position, due
from mmcore.train.guard import Guard, Passed, Picture
from mmcore.train.metrics import OpenTracker, Recorder
from mmcore.train.objective import divisors
from mmcore.train.oom import explaining_memory
from mmcore.train.optim import freeze
from mmcore.train.progress import Curves, Progress, Window
from mmcore.weights.fill import Keeping, fill, filling

_FORWARD = name_key("forward")


class Batches(Protocol):
    """Where micro-batches come from; `mmcore.data.loader.Loader` is one."""

    def iterate(self, start_step: int, stop_step: int) -> Iterable[tuple[int, Batch]]:
        """This process's micro-batches of these steps in order, each with its global number.

        Accumulation step j of step s on process r is number (s * accumulation + j) * world_size + r.
        """
        ...


@dataclass(kw_only=True)
class TrainSetup:
    """One training run, built; the loop knows no plugin and no command line."""

    stage: Stage
    model: nn.Module
    batches: Batches
    run_dir: Path
    steps: int
    """Optimiser steps of the whole schedule."""
    stop_step: int | None = None
    """Stop after this many steps although the schedule goes on."""
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    keeping: Keeping = field(default_factory=Keeping)
    """How weights that are read from a checkpoint are kept."""
    resume: bool = False
    """Continue from the newest whole checkpoint, if there is one."""
    evaluate: Evaluate | None = None
    picture: Picture | None = None
    """Draws a batch into a folder, for the guard."""
    log_every: int = 10
    tensorboard: bool = True
    settings: str = ""
    """Of the run as text, for TensorBoard."""
    draw_curves: Callable[[], object] | None = None
    """Draws the curves of the run anew, on the first process; called often enough to watch, never for long."""
    open_tracker: OpenTracker | None = None
    """Opens an experiment tracker on the first process."""
    show: bool = True
    """Whether progress is shown at all."""
    keep: bool = True
    """Whether checkpoints are written; False is a rehearsal, of which only the log is wanted."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished loop leaves."""

    step: int
    metrics: Mapping[str, float]
    """Of the last evaluation."""
    checkpoint: Path
    evaluation_failed: str | None = None
    """Why the last evaluation gave nothing."""


def train(setup: TrainSetup) -> Trained:
    """Train until the last step.

    Raises:
        Stopped: a signal asked for it; the state was saved.
        CheckpointError: the run folder is in use, damaged or cannot be written, or holds a run that was not resumed.
        NonFiniteError: the loss or a gradient is not finite and no skip is left.
        RecipeError: the batch sizes do not divide among the processes, or a pattern matches no parameter.
    """
    here = distributed.start(setup.device)
    with checkpoint.explaining_full_disk(setup.run_dir), ExitStack() as stack:
        if here.is_first:
            stack.enter_context(run_lock(setup.run_dir))
            stored.clean(setup.run_dir)
        distributed.barrier()
        run = _Run(setup, here, stack)
        return run.to_the_end(stack.enter_context(StopSignals()))


class _Run:
    """A run in progress on one process."""

    def __init__(self, setup: TrainSetup, here: distributed.Place, stack: ExitStack) -> None:
        self.setup, self.stage, self.here = setup, schedule.settled(setup.stage, setup.steps), here
        self.accumulation = accumulation(self.stage, here.world_size)
        self.stop_step = min(setup.steps, setup.stop_step or setup.steps)
        self.progress = stack.enter_context(Progress(self.stop_step, show=setup.show and here.is_first))
        loaded = self._find_checkpoint()
        self.position = Position(**loaded.state["position"]) if loaded else Position()
        self.recorder = (
            Recorder(
                setup.run_dir,
                self.position.step,
                tensorboard=setup.tensorboard,
                settings=setup.settings,
                open_tracker=setup.open_tracker,
            )
            if here.is_first
            else None
        )
        if self.recorder:
            stack.callback(self.recorder.close)
        self.engine = build_engine(setup, loaded, here.world_size)
        passed = Passed(**loaded.state.get("passed", {"skipped": loaded.state["skipped"]})) if loaded else None
        self.guard = Guard(setup.run_dir, self.stage, passed, setup.picture, self._say)
        self.evaluations = Evaluations(
            setup.run_dir, self.stage, setup.evaluate, self.stop_step, self.position, self.recorder, self._say
        )
        self.window = Window()
        self.curves = Curves(setup.draw_curves if here.is_first else None)
        self._say(f"{'resumed at' if loaded else 'start at'} step {self.position.step} of {self.stop_step}")

    def to_the_end(self, signals: StopSignals) -> Trained:
        """All remaining steps, each saved and evaluated where that is due, the last one always."""
        position = self.position
        if position.step:
            self._evaluate(self.evaluations.catch_up)
        micro_batches = iter(self.setup.batches.iterate(position.step, self.stop_step))
        while position.step < self.stop_step and not self._ended_early():
            stop = self._step(micro_batches, signals)
            last, evaluate = position.step == self.stop_step, self.evaluations.due()
            if last or stop or evaluate or due(self.stage.checkpoint_every, position.step):
                self._save()
            if stop and (evaluate or not last):
                self._stop(stop)
            if evaluate:
                self._evaluate(self.evaluations.run)
                self.curves.draw()
                self.window = Window()
        path = stored.path_of(self.setup.run_dir, position.step)
        if self.setup.keep and not path.is_dir():  # --max-steps 0, or a finished run whose last checkpoint was deleted
            self._save()
        self.guard.check_end(position.step)
        return Trained(position.step, dict(position.metrics), path, self.evaluations.failed)

    def _evaluate(self, how: Callable[[Engine], None]) -> None:
        """Evaluate what is saved; a signal on the way ends the run as between two steps."""
        try:
            how(self.engine)
        except Stopped as stopped:
            self._stop(stopped.signal_number)

    def _ended_early(self) -> bool:
        """Whether the recipe's patience is at its end, which is told and recorded once."""
        if not self.evaluations.exhausted:
            return False
        step, best = self.position.step, self.position.best_step
        several = f"{self.stage.patience} evaluations" if self.stage.patience != 1 else "one evaluation"
        why = f"no better {self.stage.best_metric} in {several}, the best at step {best}"
        self._say(f"the run ends at step {step}: {why}")
        if self.recorder is not None and self.recorder.ended() is None:
            self.recorder.write({"step": step, "ended": why})
        return True

    def _step(self, micro_batches: Iterator[tuple[int, Batch]], signals: StopSignals) -> int:
        """One optimiser step; returns the signal by which a process was asked to stop, or 0."""
        batches = self._draw(micro_batches)
        stop, divide_by = self._agree(batches, signals)
        with explaining_memory(self.engine.model, self.stage, batches, self.position.step + 1, self.here.world_size):
            total, norm, parts = self._gradients(batches, divide_by)
            updated = self._update(total, norm, batches, parts)
        self.position.step += 1
        self.window.steps += 1
        if due(self.setup.log_every, self.position.step) or self.position.step in (1, self.stop_step):
            self._log(total, parts, updated)
        return stop

    def _gradients(
        self, batches: Sequence[tuple[int, Batch]], divide_by: Sequence[Mapping[str, float]]
    ) -> tuple[float, float, list[dict[str, Tensor]]]:
        """Forward and backward of all micro-batches: the step's loss, the norm of its gradient, the losses of each."""
        self.engine.model.train()
        parts: list[dict[str, Tensor]] = []
        loss = torch.zeros((), device=self.engine.device)
        for (m, batch), divide in zip(batches, divide_by, strict=True):
            _seed(self.setup.seed, m)
            objective = self.engine.forward(batch.to(self.engine.device), divide)
            self.engine.backward(objective)
            loss += objective.detach()
            parts.append(self.engine.objective.parts)
        return *self.engine.health(loss), parts

    def _draw(self, micro_batches: Iterator[tuple[int, Batch]]) -> list[tuple[int, Batch]]:
        """The step's micro-batches, all before the first forward: what they hold normalises each of them."""
        began = time.monotonic()
        batches = [next(micro_batches) for _ in range(self.accumulation)]
        self.window.waited += time.monotonic() - began
        first = self.position.step * self.accumulation
        expected = [(first + j) * self.here.world_size + self.here.rank for j in range(self.accumulation)]
        assert [m for m, _ in batches] == expected, "the loader and the loop count differently"
        for _, batch in batches:
            self.window.add(batch)
        return batches

    def _agree(self, batches: Sequence[tuple[int, Batch]], signals: StopSignals) -> tuple[int, list[dict[str, float]]]:
        """The one message of a step among the hosts: what divides the losses, and whether anybody was asked to stop."""
        counts, samples = [batch.normalisers for _, batch in batches], sum(len(batch) for _, batch in batches)
        words = distributed.all_gather_json({"stop": signals.pending, "samples": samples, "counts": counts})
        self.position.samples += sum(word["samples"] for word in words)
        every = [word["counts"] for word in words]
        return max(word["stop"] for word in words), divisors(every, self.stage.normalise, self.here.rank)

    def _update(
        self, total: float, norm: float, batches: Sequence[tuple[int, Batch]], parts: Sequence[dict[str, Tensor]]
    ) -> bool:
        """Update the weights, unless something is not finite; returns whether it was done."""
        scale = self.engine.loss_scale
        finite = np.isfinite([total, norm])
        if scale is not None:
            scale.update(overflow=not finite[1])
        overflowed = scale is not None and finite[0] and not finite[1] and scale.value > 1
        # With fp16 a gradient that overflows is how the loss scale is found, not a fault.
        if overflowed or not self.guard.allows(self.position.step + 1, total, norm, batches, parts):
            self.engine.drop()
            passed = self.guard.passed
            if overflowed:
                passed.overflows += 1
            else:
                self._say(
                    f"step {self.position.step + 1}: not finite, skipped ({passed.skipped} of {self.guard.budget})"
                )
            return False
        self.engine.step(schedule.factor(self.stage.schedule, self.position.step, self.setup.steps))
        return True

    def _log(self, total: float, parts: Sequence[Mapping[str, Tensor]], updated: bool) -> None:
        losses = self._mean_losses(parts)
        norm = self.engine.grad_norm() if updated else float("nan")
        timing = self.window.timing(self.here.world_size, self.engine.device)
        self.window = Window()
        if self.recorder is None:
            return
        # What was applied: a step that was skipped moved nothing.
        rates = {f"group{i}": rate if updated else 0.0 for i, rate in enumerate(self.engine.learning_rates())}
        scale = self.engine.loss_scale
        scaling = {"loss_scale": scale.value, "overflows": self.guard.passed.overflows} if scale else {}
        record = {
            "step": self.position.step, "total": total, "losses": losses, "lr": rates, "grad_norm": norm,
            "samples": self.position.samples, "skipped": self.guard.passed.skipped, **scaling, "timing": timing,
        }  # fmt: skip
        self.recorder.write(record)
        self.progress.step(record)
        self.curves.due()

    def _mean_losses(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Each loss over the global batch: one copy to the host, one message among the hosts."""
        own: dict[str, Tensor] = {}
        for part in parts:
            for name, value in part.items():
                own[name] = own[name] + value if name in own else value
        values = torch.stack(list(own.values())).tolist() if own else []
        merged: dict[str, float] = {}
        for there in distributed.all_gather_json(dict(zip(own, values, strict=True))):
            for name, value in there.items():
                merged[name] = merged.get(name, 0.0) + value
        return merged

    def _save(self) -> None:
        if not self.setup.keep:
            return
        if self.recorder is not None:
            self.recorder.sync()
        position, scale = self.position, self.engine.loss_scale
        state = {
            "position": {name: getattr(position, name) for name in Position.__slots__},
            "updates": self.engine.updates,
            "skipped": self.guard.passed.skipped,
            "passed": asdict(self.guard.state),
            "loss_scale": [scale.value, scale.good_steps] if scale else None,
            "seed": self.setup.seed,
            "steps": self.setup.steps,
            "class_names": list(self.stage.class_names),
            "finished": position.step == self.setup.steps,
        }
        path = checkpoint.save(self.setup.run_dir, position.step, self.engine, state)
        if self.here.is_first:
            stored.retain(self.setup.run_dir, keep_last=self.stage.keep_last, keep_every=self.stage.keep_every)
        self._say(f"saved {path}")
        distributed.barrier()
        self.window = Window()

    def _stop(self, signal_number: int) -> None:
        self._say(f"stopped by signal {signal_number} after step {self.position.step}")
        raise Stopped(
            signal_number,
            f"stopped by a signal after step {self.position.step}; everything is saved",
            do=f"go on with `mmcore train --resume {self.setup.run_dir}`",
        )

    def _find_checkpoint(self) -> checkpoint.Loaded | None:
        """The newest whole checkpoint, verified by the first process and opened by all."""
        run_dir = self.setup.run_dir
        if not self.setup.resume:
            if stored.steps_of(run_dir):
                raise CheckpointError(
                    f"{run_dir} already holds a run",
                    where=run_dir,
                    do="continue it with --resume, or choose another --out",
                )
            return None
        found = stored.last_good(run_dir, self.progress.say) if self.here.is_first else None
        step = distributed.broadcast_json(found)
        return None if step is None else checkpoint.load(run_dir, step, verify=False)

    def _say(self, text: str) -> None:
        if self.recorder is not None:
            self.recorder.say(text)
            self.progress.say(text)


def accumulation(stage: Stage, world_size: int) -> int:
    """Micro-batches per process and step.

    Raises:
        RecipeError: the global batch does not divide among the processes.
    """
    count, rest = divmod(stage.global_batch, stage.micro_batch * world_size)
    if rest or not count:
        raise RecipeError(
            f"global_batch {stage.global_batch} does not divide into micro-batches of {stage.micro_batch} on "
            f"{world_size} processes",
            where=f"stage {stage.number} {stage.name}",
            do=f"use a multiple of {stage.micro_batch * world_size} samples, or another micro_batch or --nproc",
        )
    return count


def build_engine(setup: TrainSetup, loaded: checkpoint.Loaded | None, world_size: int) -> Engine:
    """Freeze the model, fill it from a checkpoint, and put it into the engine that suits."""
    freeze(setup.model, setup.stage)
    if loaded is not None:
        checkpoint.check_fits(loaded, setup.model)
        with filling(setup.keeping):
            fill(setup.model, loaded.weights)
    if setup.stage.compile:
        setup.model.compile()
    engine: Engine
    if world_size > 1 or setup.stage.offload:
        from mmcore.train.zero import DeepSpeedEngine

        distributed.start(setup.device, alone=True)
        engine = DeepSpeedEngine(setup.model, setup.stage, setup.device)
    else:
        engine = PlainEngine(setup.model, setup.stage, setup.device)
    if loaded is not None:
        engine.load_moments(loaded.moments, loaded.state["updates"])
        if engine.loss_scale is not None and loaded.state["loss_scale"] is not None:
            engine.loss_scale.value, engine.loss_scale.good_steps = loaded.state["loss_scale"]
    return engine


def _seed(seed: int, m: int) -> None:
    """Random numbers of a forward pass as a function of the run's seed and the micro-batch's number."""
    bits = mix(seed, _FORWARD, m)
    torch.manual_seed(bits & (2**63 - 1))
    # A family may draw from any of the three.
    random.seed(bits)
    np.random.seed(bits & 0xFFFFFFFF)
