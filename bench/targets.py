"""Embedding targets in a training step: live teachers beside a cache of what they say, and what either needs.

    python bench/targets.py                    # CPU: networks of the published kinds with few channels
    python bench/targets.py --size published   # the published networks with random weights; for a GPU

Per round both variants bring one micro-batch of targets to the device, from picture files on disk. Preparation in data
workers is timed apart, because workers hide it behind the step until there are too few of them. The files are in the
page cache; a disk adds what it adds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from mmcore.data.cache.features import CacheJob, FeatureCache, Field, Item
from mmcore.data.cache.fill import fill
from mmcore.data.cache.survey import size_text
from mmcore.data.images import read_image
from mmcore.data.pictures import Inside
from mmcore.vision.extractors import Extractor, Extractors
from mmcore_visper.teachers import DepthTeacher, GenTeacher, SegTeacher
from mmcore_visper.teachers.depth import DepthNetwork
from mmcore_visper.teachers.gen import GenNetwork
from mmcore_visper.teachers.seg import SegNetwork
from PIL import Image

SMALL: tuple[Extractor, ...] = (
    DepthTeacher(width=64, depth=4, num_heads=4, taps=(0, 1, 2, 3), precision="fp32"),
    SegTeacher(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), precision="fp32"),
    GenTeacher(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, precision="fp32"),
)
PUBLISHED: tuple[Extractor, ...] = (DepthTeacher(), SegTeacher(), GenTeacher())


def with_random_weights(described: tuple[Any, ...]) -> Extractors:
    """The networks without files."""
    from transformers import CLIPVisionModelWithProjection, Dinov2Model, SwinBackbone

    depth, seg, gen = described
    teachers = Extractors(described)
    teachers.networks = {
        "depth": DepthNetwork(depth, Dinov2Model(depth.config())).eval(),
        "seg": SegNetwork(seg, SwinBackbone(seg.config())).eval(),
        "gen": GenNetwork(gen, CLIPVisionModelWithProjection(gen.config())).eval(),
    }
    return teachers


def write_pictures(folder: Path, count: int) -> list[Path]:
    """JPEGs of the size of LLaVA's captions."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((448, 336), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def run(size: str, batch: int, rounds: int, device: str) -> dict[str, Any]:
    """All figures of one comparison."""
    described = PUBLISHED if size == "published" else SMALL
    torch.manual_seed(0)
    teachers = with_random_weights(described).load(device)
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_pictures(Path(scratch), batch)

        def inputs(path: Path | Inside) -> dict[str, torch.Tensor]:
            rgb = read_image(path.held() if isinstance(path, Inside) else path)
            return {teacher.name: teacher.inputs(rgb) for teacher in described}

        def make(given: Any) -> dict[str, torch.Tensor]:
            return {task: teachers.stored(task, pixels) for task, pixels in given.items()}

        job = CacheJob(
            folder=Path(scratch) / "cache",
            fields={teacher.name: Field(teacher.shape, "fp16") for teacher in described},
            identity={},
            covers={},
            items=lambda: [Item(path.name, path) for path in paths],
            read=inputs,
            make=lambda device: make,
        )
        fill(job, job.folder, device=device, workers=0)
        cache = FeatureCache(job.folder)
        prepared = [inputs(path) for path in paths]
        stacked = {name: torch.stack([one[name] for one in prepared]) for name in prepared[0]}

        def live() -> dict[str, torch.Tensor]:
            return teachers({task: pixels.to(device) for task, pixels in stacked.items()})

        def cached() -> dict[str, torch.Tensor]:
            rows = [cache.read(path.name, path) for path in paths]
            return {n: torch.stack([torch.from_numpy(r[n]) for r in rows]).to(device).float() for n in job.fields}

        for task, target in live().items():
            assert torch.equal(target, cached()[task]), f"{task} differs"
        measured = common.in_turn({"live": live, "cached": cached}, rounds=rounds, device=device)
        wall = {name: [one.wall for one in found] for name, found in measured.items()}
        preparing = common.measure(lambda: [inputs(path) for path in paths])
    parameters = sum(p.numel() for network in teachers.networks.values() for p in network.parameters())
    weights = sum(p.numel() * p.element_size() for network in teachers.networks.values() for p in network.parameters())
    return {
        "size": size,
        "device": device,
        "batch": batch,
        "live_ms_per_image": 1000 * float(np.median(wall["live"])) / batch,
        "cached_ms_per_image": 1000 * float(np.median(wall["cached"])) / batch,
        "live_over_cached": common.ratio(wall["live"], wall["cached"]),
        "preparing_ms_per_image": 1000 * preparing.wall / batch,
        "teacher_parameters": parameters,
        "teacher_weights": size_text(weights),
        "cache_bytes_per_image": job.row_bytes,
        "machine": common.machine(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    result = run(given.size, given.batch, given.rounds, given.device)
    print(json.dumps(result, indent=1))
    print(f"written to {common.save(f'targets_{given.size}_{given.device}', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
