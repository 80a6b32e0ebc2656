"""Two processes that train GLaMM together, and batches for tests. Also a program: `python ranks.py FOLDER`.

The program imports torch and DeepSpeed once, forks two real processes for every scenario, and writes what each saw to
FOLDER/NAME.RANK.json.
"""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from mmcore import AdamW, Constant, Data, Source, Stage
from mmcore.base import distributed
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Draw, Encoded, Region, VisualPrompt
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.train.objective import divisors
from mmcore.train.optim import freeze
from mmcore.vision.sam.pixels import padded
from mmcore_glamm.batch import GlammBatch, collator_of
from mmcore_glamm.config import TINY, GlammConfig
from mmcore_glamm.model import Glamm
from mmcore_glamm.tokens import TokenIds

IDS = TokenIds(box=1002, seg=1004)
KINDS = ("seg", "caption", "region", "text")
STEPS = (("seg", "caption"), ("region", "seg"), ("text", "seg"), ("caption", "caption"))
"""What each of two processes has in every step."""
SCENARIOS = {"zero2": 2, "zero3": 3}
TRAINED = ("language.lm_head", "language.model", "region_encoder", "sam.mask_decoder", "seg_projection")


def sample(kind: str, number: int, rng: np.random.Generator, config: GlammConfig = TINY) -> ConversationSample:
    """A random conversation of one kind: with masks, with boxes, about a picture, or without one."""
    height, width = 40 + 6 * number, 60 - 4 * number
    words = [rng.integers(6, 900, 4).tolist() for _ in range(4)]
    marks = {"seg": IDS.seg, "region": IDS.box}.get(kind)
    asked = [1, *([] if kind == "text" else [IMAGE]), *words[0], *([marks] if kind == "region" else []), *words[1]]
    said = [*words[2], *([marks] * (1 + number % 2) if kind == "seg" else []), *words[3], 2]
    ids = np.array(asked + said, np.int64)
    picture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    side = config.image_size
    pixels = torch.from_numpy(rng.standard_normal((3, side, side)).astype(np.float32))
    images = {} if kind == "text" else {MAIN: (pixels,)}
    masks = ()
    if kind == "seg":
        images[SEGMENT] = (padded(picture, config.sam.image_size),)
        shape = (1 + number % 2, height, width)
        masks = tuple(torch.from_numpy((rng.random(shape) > 0.5).astype(np.uint8)))
    box = torch.tensor([[5.0, 6.0], [30.0, 33.0]])
    return ConversationSample(
        encoded=Encoded(ids, np.where(np.arange(len(ids)) < len(asked), IGNORE, ids)),
        turns=(),
        images=images,
        draw=Draw(kind, number, 0),
        image_id=None if kind == "text" else number,
        original_size=(0, 0) if kind == "text" else (height, width),
        record_id=number,
        regions=tuple(Region(mask=mask) for mask in masks),
        prompts=(VisualPrompt("box", box),) if kind == "region" else (),
    )


def tiny_batch(kind: str = "seg", count: int = 2, *, seed: int = 0, config: GlammConfig = TINY) -> GlammBatch:
    """Random conversations of one kind."""
    rng = np.random.default_rng(seed)
    return collator_of(config, IDS, config.max_length)([sample(kind, n, rng, config) for n in range(count)], 0)


def stage(**changes: object) -> Stage:
    """A stage that trains what the published ones train."""
    made = Stage(
        number=1,
        name="together",
        title="tests",
        origin="assumed",
        steps=len(STEPS),
        global_batch=4,
        micro_batch=2,
        data=Data(sources={"none": Source(weight=1.0, format="LLaVA JSON", annotations="none.json")}),
        optim=AdamW(lr=1e-3),
        schedule=Constant(),
        trainable=TRAINED,
        precision="fp32",
    )
    return made.replace(**changes)


def train(zero: int, rank: int) -> dict[str, object]:
    """A few steps; the losses, and the weights at the end by their norms."""
    from mmcore.train.zero import DeepSpeedEngine

    device = torch.device("cpu")
    distributed.start(device, timeout_s=60)
    torch.manual_seed(3)
    model, made = Glamm(TINY), stage(zero=zero)
    freeze(model, made)
    engine = DeepSpeedEngine(model.train(), made, device)
    totals, parts = [], []
    for number, kinds in enumerate(STEPS):
        batches = [tiny_batch(kind, seed=10 * number + r) for r, kind in enumerate(kinds)]
        counts = divisors([[batch.normalisers] for batch in batches], "global")[0]
        loss = engine.forward(batches[rank], counts)
        engine.backward(loss)
        totals.append(engine.health(loss.detach())[0])
        parts.append({name: float(value) for name, value in engine.objective.parts.items()})
        engine.step(1.0)
    weights = {entry.name: float(entry.get().double().norm()) for entry in engine.tensors() if entry.file == "model"}
    return {"totals": totals, "parts": parts, "weights": weights if rank == 0 else {}}


def fork(folder: Path, name: str, rank: int, world: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        (folder / f"{name}.{rank}.json").write_text(json.dumps(train(SCENARIOS[name], rank)))
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
    for name in SCENARIOS:
        port = free_port()
        children = [fork(folder, name, rank, 2, port) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(name, codes, flush=True)
        worst = max(worst, *map(abs, codes))
    return worst


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
