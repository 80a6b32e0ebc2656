"""A family for testing the engine: dropout, a buffer, a frozen part, and a head that only one of two sources uses.

Also a program: `python toy.py SETTINGS.json` trains as the settings say and exits as `mmcore train` would.
"""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmcore.base import distributed
from mmcore.base.distributed import place
from mmcore.contract.mixture import WholeEpochs
from mmcore.contract.model import Model
from mmcore.contract.recipe import AdamW, Constant, Data, MultiStep, Source, Stage
from mmcore.contract.values import Batch, Draw, Loss, Losses
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.errors import MmcoreError
from mmcore.train.loop import Trained, TrainSetup, accumulation, train
from torch import Tensor, nn

WIDTH = 16
SIZES = {"masks": 40, "boxes": 25}


@dataclass(slots=True)
class ToyBatch(Batch):
    features: Tensor
    targets: Tensor


class Toy(Model):
    def __init__(self, *, poison: int | None = None, blank: int | None = None, whole_leaf: bool = True) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(WIDTH, 37), nn.GELU(), nn.Dropout(0.2), nn.Linear(37, WIDTH))
        self.box_head = nn.Linear(WIDTH, 3)
        self.mask_head = nn.Sequential(nn.Linear(WIDTH, 11), nn.ReLU(), nn.Linear(11, 1))
        self.teacher = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("scale", torch.tensor(0.5))
        self.poison, self.blank, self.whole_leaf = poison, blank, whole_leaf

    def forward(self, batch: ToyBatch) -> Losses:
        """The order of use differs between the sources, and so does the set of parameters."""
        features = batch.features
        if self.blank is not None and any(draw.position % self.blank == 0 for draw in batch.draws):
            return Losses()
        if batch.source == "masks":
            early = self.mask_head(features)
            hidden = self.trunk(features) + early
        else:
            hidden = self.trunk(features)
        noise = torch.randn_like(hidden) * 0.01
        with torch.no_grad():
            taught = self.teacher(features)
        losses = Losses()
        losses["box"] = Loss((self.box_head(hidden + noise) - batch.targets).abs().sum(), "objects")
        losses["distil"] = Loss(((hidden - taught) ** 2).sum() * self.scale, "samples")
        if batch.source == "masks":
            losses["mask"] = Loss((self.mask_head(hidden) ** 2).sum(), "masks")
        if self.poison is not None and any(draw.position == self.poison for draw in batch.draws):
            losses["box"] = Loss(losses["box"].total * float("nan"), "objects")
        return losses

    def predict(self, batch: ToyBatch) -> list[float]:
        return self.box_head(self.trunk(batch.features)).sum(1).tolist()

    def zero3_leaves(self) -> list[nn.Module]:
        return [self] if self.whole_leaf else []


class ToyData(torch.utils.data.Dataset):
    """Micro-batch m, made by data workers."""

    def __init__(self, order: SourcePerBatchOrder) -> None:
        self.order = order

    def __getitem__(self, m: int) -> tuple[int, ToyBatch]:
        draws = self.order.draws(m)
        return m, collate(draws)


def collate(draws: tuple[Draw, ...]) -> ToyBatch:
    features, targets = [], []
    for draw in draws:
        generator = torch.Generator().manual_seed(draw.seed >> 1)
        features.append(torch.randn(WIDTH, generator=generator))
        targets.append(torch.randn(3, generator=generator))
    source, n = draws[0].source, float(len(draws))
    counts = {"samples": n, "objects": 3 * n, "masks": n if source == "masks" else 0.0}
    return ToyBatch(source, draws, counts, torch.stack(features), torch.stack(targets))


class ToyLoader:
    def __init__(self, stage: Stage, seed: int, workers: int) -> None:
        self.stage, self.workers = stage, workers
        sizes = {name: SIZES[name] for name in stage.data.sources}
        weights = {name: source.weight for name, source in stage.data.sources.items()}
        micro = dict.fromkeys(sizes, stage.micro_batch)
        self.order = SourcePerBatchOrder(sizes, weights, micro, whole_epochs=True, seed=seed)

    def iterate(self, start_step: int, stop_step: int) -> Iterable[tuple[int, Batch]]:
        here = place()
        steps = accumulation(self.stage, here.world_size)
        numbers = [j * here.world_size + here.rank for j in range(start_step * steps, stop_step * steps)]
        data = ToyData(self.order)
        return iter(
            torch.utils.data.DataLoader(data, sampler=numbers, batch_size=None, num_workers=self.workers)
            if numbers
            else ()
        )


def toy_stage(**changes: object) -> Stage:
    stage = Stage(
        number=1, name="toy", title="toy", origin="test", steps=12, global_batch=8, micro_batch=2,
        data=Data(
            sources={name: Source(weight=1.0, format="toy") for name in SIZES}, mixture=WholeEpochs()
        ),
        optim=AdamW(lr=0.01, weight_decay=0.05, clip_grad_norm=1.0, multipliers={"trunk": 0.5}),
        schedule=MultiStep(milestones=(8,), warmup_steps=3, warmup_factor=0.1),
        precision="fp32", frozen=("teacher",), checkpoint_every=4, keep_last=2,
    )  # fmt: skip
    return stage.replace(**changes)


def toy_setup(run_dir: Path, stage: Stage | None = None, **changes: object) -> TrainSetup:
    stage = stage or toy_stage()
    seed = int(changes.get("seed", 7))
    workers = int(changes.pop("workers", 0))
    model_options = changes.pop("model_options", {})
    torch.manual_seed(seed)
    values = {
        "stage": stage, "model": Toy(**model_options), "batches": ToyLoader(stage, seed, workers), "run_dir": run_dir,
        "steps": stage.steps, "seed": seed, "log_every": 1, "tensorboard": False, "show": False,
    }  # fmt: skip
    return TrainSetup(**{**values, **changes})


def run(settings: dict) -> Trained:
    """Train by plain settings: `run_dir`, `stage` (changes) and what `toy_setup` takes."""
    settings = dict(settings)
    slow_down(settings.pop("fsync_pause", 0.0), settings.pop("step_pause", 0.0))
    stage_changes = settings.pop("stage", {})
    if "sources" in settings:
        sources = {name: Source(weight=1.0, format="toy") for name in settings.pop("sources")}
        stage_changes["data"] = Data(sources=sources, mixture=WholeEpochs())
    if settings.pop("constant_rate", False):
        stage_changes["schedule"] = Constant()
    if settings.pop("evaluating", False):
        settings["evaluate"] = evaluate
    return train(toy_setup(Path(settings.pop("run_dir")), toy_stage(**stage_changes), **settings))


def evaluate(model: Toy, step: int) -> dict[str, float]:
    """A metric that every process computes from a different number of calls; it peaks early."""
    here = place()
    assert not model.training
    batches = [collate((Draw("boxes", i, i),)) for i in range(4 + 3 * here.rank)]
    values = [model.predict(batch)[0] for batch in batches]
    return {"toy/score": -abs(step - 6.0), "toy/sum": sum(values[:4])}


def slow_down(fsync_pause: float, step_pause: float) -> None:
    """Stretch saves and steps, so that kills and signals find them in progress."""
    from mmcore.base import files
    from mmcore.train import engine

    if fsync_pause:
        fsync = os.fsync
        files.os.fsync = lambda handle: (time.sleep(fsync_pause), fsync(handle))[1]
    if step_pause:
        update = engine.PlainEngine.step
        engine.PlainEngine.step = lambda self, factor: (time.sleep(step_pause), update(self, factor))[1]


def serve(*, deepspeed: bool) -> None:
    """Fork training processes for each line of settings: imports are done once, each process is a real one."""
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # imports much at its first construction
    if deepspeed:
        import deepspeed.runtime.engine
        import deepspeed.runtime.zero.muon.muon_optimizer
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    print("ready", file=say)
    for line in sys.stdin:
        settings = json.loads(line)
        world = settings.pop("processes")
        port = free_port()
        children = [fork(settings, rank, world, port) for rank in range(world)]
        print(json.dumps(children), file=say)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), file=say)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fork(settings: dict, rank: int, world: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        output = os.open(f"{settings['run_dir']}.{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if world > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        code = guarded(settings)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def guarded(settings: dict) -> int:
    try:
        run(settings)
    except MmcoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--serve":
        serve(deepspeed="--deepspeed" in sys.argv)
    else:
        code = guarded(json.loads(Path(sys.argv[1]).read_text()))
        distributed.stop()
        sys.exit(code)
