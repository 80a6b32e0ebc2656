"""Two processes that train VisPer-LM together, and batches for tests. Also a program: `python ranks.py FOLDER`.

The program imports torch and DeepSpeed once, forks two real processes for every scenario, and writes what each saw to
FOLDER/NAME.RANK.json.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcore.base import distributed
from mmcore.contract.values import Draw
from mmcore.language.batch import ConversationBatch
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.language.splice import lay_out
from mmcore.train.objective import divisors
from mmcore.train.optim import freeze
from mmcore.train.recompute import recompute_block
from mmcore_visper.config import TINY, VisperConfig
from mmcore_visper.model import Visper
from mmcore_visper.recipes import stages

CONFIG = TINY.replace(published={"padding_keys": "masked"}, tower={"num_layers": 2})
STEPS = (((1, 1, 0), (1, 0, 1)), ((1, 0, 1), (0, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((0, 0, 0), (1, 1, 1)))
"""Of every step and rank, which samples have an image: differing numbers, and none on one process or on both."""
SCENARIOS = {"zero2": (2, True), "zero3": (3, True), "frozen3": (3, False)}
"""ZeRO stage, and whether the language model is trained as well; where it is not, it is checkpointed."""


def tiny_batch(
    config: VisperConfig = CONFIG,
    images: Sequence[int] = (1, 0, 1),
    *,
    seed: int = 0,
    pack_to: int | None = None,
    padding_side: str = "right",
) -> ConversationBatch:
    """Random conversations of growing length; each has an image where `images` says so."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, has_image in enumerate(images):
        words = rng.integers(6, 900, 12 + 5 * number)
        ids = np.array([1, 4, *[IMAGE] * has_image, *words.tolist()], np.int64)
        labels = np.where(np.arange(len(ids)) < 6, IGNORE, ids)
        rows.append(Encoded(ids, labels))
    sequences = lay_out(rows, config.expansion, pack_to=pack_to, padding_side=padding_side)
    count, random = sum(images), torch.Generator().manual_seed(seed + 1)
    side = config.image_size
    return ConversationBatch(
        source="tiny",
        draws=tuple(Draw("tiny", number, 0) for number in range(len(rows))),
        normalisers={"tokens": float(len(sequences.targets)), "samples": float(len(rows))},
        sequences=sequences,
        images=torch.randn(count, 3, side, side, generator=random),
        image_samples=torch.tensor([i for i, has_image in enumerate(images) if has_image], dtype=torch.int64),
        image_ids=tuple(range(len(rows))),
        record_ids=(None,) * len(rows),
        original_sizes=((0, 0),) * len(rows),
        features={t.name: torch.randn(count, *t.target_shape, generator=random) for t in config.tasks} if count else {},
    )


def train(zero: int, whole: bool, rank: int) -> dict[str, object]:
    """A few steps of stage pt; the losses, and the weights at the end by their norms."""
    from mmcore.train.zero import DeepSpeedEngine

    device = torch.device("cpu")
    distributed.start(device, timeout_s=60)
    stage = stages("tiny")[0].replace(global_batch=6, micro_batch=3, zero=zero, steps=len(STEPS))
    torch.manual_seed(3)
    model = Visper(CONFIG)
    if not whole:
        stage = stage.replace(frozen=("language",))
        for block in model.checkpoint_blocks():
            recompute_block(block)
    freeze(model, stage)
    engine = DeepSpeedEngine(model.train(), stage, device)
    totals, parts = [], []
    for number, shares in enumerate(STEPS):
        batches = [tiny_batch(images=images, seed=10 * number + r) for r, images in enumerate(shares)]
        counts = divisors([[batch.normalisers] for batch in batches], "global")[0]
        loss = engine.forward(batches[rank], counts)
        engine.backward(loss)
        totals.append(engine.health(loss.detach())[0])
        parts.append({name: float(value) for name, value in engine.objective.parts.items()})
        engine.step(1.0)
    weights = {entry.name: float(entry.get().double().norm()) for entry in engine.tensors() if entry.file == "model"}
    return {"totals": totals, "parts": parts, "weights": weights if rank == 0 else {}}


def gather(rank: int) -> dict[str, object]:
    """Targets of which the processes have two and none, then two and three."""
    from mmcore_visper.losses import exchange_shares, gather_targets

    distributed.start(torch.device("cpu"), timeout_s=60)
    found: dict[str, object] = {}
    for name, counts in {"none": (2, 0), "some": (2, 3)}.items():
        mine = targets_of(rank)[: counts[rank]]
        mine = mine.half() if rank == 0 or counts[1] == 0 else mine
        shares = exchange_shares({"depth": mine})
        candidates = gather_targets(mine, shares)
        assert shares is not None
        found[name] = {
            "counts": shares.counts,
            "half": shares.dtype == torch.float16,
            "rows": candidates.rows.tolist(),
            "first": candidates.first,
        }
    return found


def targets_of(rank: int) -> torch.Tensor:
    """(3, 4, 2): one process's targets."""
    return torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(rank))


def fork(folder: Path, name: str, rank: int, world: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        result = gather(rank) if name == "gather" else train(*SCENARIOS[name], rank)
        (folder / f"{name}.{rank}.json").write_text(json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    import deepspeed.runtime.engine
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401

    worst = 0
    for name in ("gather", *SCENARIOS):
        port = free_port()
        children = [fork(folder, name, rank, 2, port) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(name, codes, flush=True)
        worst = max(worst, *map(abs, codes))
    return worst


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
