"""Griffon at its own number of image tokens: packing, Gemma 2's capped attention, and the tower at 1022 pixels.

    python bench/griffon.py                       # all three; four minutes on two cores
    python bench/griffon.py --part attention

packing     the tiny language model over eight conversations, six with an image of 1369 rows and two without: several
            to a row of at most 4096, or one a row padded to the longest. Useful tokens are those that are no padding
attention   one layer of Gemma 2 9B (16 heads of 256, 8 for keys; scores capped at 50) over an image and 200 words,
            forward and backward: in blocks, or with the matrices of scores written out
tower       CLIP at 1022 pixels, 5330 positions, with 2 of ViT-L's 16 heads and 3 of its 24 layers, forward and
            backward up to the last state but one: ours, or transformers' with `attn_implementation="eager"`, which
            runs the last layer too and keeps all states

Variants run in turn and must give the same numbers, or the run fails.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from mmcore.contract.values import map_tensors
from mmcore.language import models, splice
from mmcore.language.attention import attend
from mmcore.language.masking import Masking
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from mmcore.vision.clip_vit import ClipTower, ClipVit, clip_rules
from mmcore.weights.maps import WeightMap
from mmcore_griffon.config import TINY
from torch import Tensor, nn

ROWS = 1369
"""Of one picture: 73 x 73 patches through a convolution of stride 2."""
PACK_TO = 4096
TOLERANCE = 1e-3
"""Largest relative difference between variants: float32 sums in another order, over thousands of positions."""
Variant = Callable[[], float]


def packing(device: str) -> dict[str, Variant]:
    """Steps of the tiny language model; the layout, which a data worker makes, is timed with it."""
    torch.manual_seed(0)
    model = models.build(TINY.language).to(device).train()
    rng, expansion = np.random.default_rng(0), {IMAGE: (("image", ROWS),)}
    encoded = []
    for number, length in enumerate(np.clip(rng.lognormal(4.3, 0.8, 8), 20, 500).astype(int)):
        ids = rng.integers(3, 1000, length)
        ids[3] = IMAGE if number % 4 != 3 else ids[3]
        encoded.append(Encoded(ids, np.where(np.arange(length) < max(length // 2, 4), IGNORE, ids)))
    images = torch.randn(6, ROWS, model.width, device=device, requires_grad=True)

    def step(pack_to: int | None) -> float:
        plan = splice.lay_out(encoded, expansion, pack_to=pack_to)
        plan = map_tensors(plan, lambda tensor: tensor.to(device))
        last = model(model.embed(plan, {"image": images}), plan).last
        loss = model.token_loss(last, plan) / len(plan.targets)
        loss.backward()
        model.zero_grad(set_to_none=True)
        step.useful = int(sum(place.length for place in plan.locations))  # type: ignore[attr-defined]
        return float(loss.detach())

    return {"packed": partial(step, PACK_TO), "padded": partial(step, None)}


def attention(device: str) -> dict[str, Variant]:
    """One attention layer, forward and backward."""
    length, generator = ROWS + 200, torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, 256) for heads in (16, 8, 8)]
    parts = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
    order = torch.arange(length, device=device)[None]

    def step(kernel: Any) -> float:
        masking = Masking(order, order, longest=length, kernel=kernel)
        out, _ = attend(nn.Module(), parts[0], parts[1], parts[2], None, masking=masking, scaling=1 / 16, softcap=50.0)
        out.square().sum().backward()
        value = sum(float(part.grad.norm()) for part in parts if part.grad is not None)
        for part in parts:
            part.grad = None
        return value

    return {"blocks": partial(step, "sdpa"), "eager": partial(step, "eager")}


def tower(device: str) -> dict[str, Variant]:
    """A tower that trains, forward and backward."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "image_size": 1022, "patch_size": 14}
    torch.manual_seed(0)
    ours = ClipVit(ClipTower(**sizes, num_layers=3, num_heads=2)).to(device)
    more = {"num_hidden_layers": 3, "num_attention_heads": 2, "attn_implementation": "eager"}
    plain: Any = CLIPVisionModel(CLIPVisionConfig(**sizes, **more)).to(device)  # type: ignore[arg-type]
    names = WeightMap(rules=tuple(clip_rules("", "")), ignored=("*.position_ids",))
    plain.load_state_dict(names.to_published(ours.state_dict()), strict=False)
    image = torch.randn(1, 3, 1022, 1022, device=device)

    def read(rows: Callable[[], Tensor], module: nn.Module) -> float:
        value = rows().square().mean()
        value.backward()
        module.zero_grad(set_to_none=True)
        return float(value.detach())

    def eager() -> Tensor:
        return plain(image, output_hidden_states=True).hidden_states[-2][:, 1:]

    return {"ours": partial(read, lambda: ours(image), ours), "eager": partial(read, eager, plain)}


PARTS = {"packing": packing, "attention": attention, "tower": tower}


def run(part: str, rounds: int, device: str, threads: int) -> dict[str, Any]:
    """Time and memory of every variant of a part."""
    variants = PARTS[part](device)
    values = {name: step() for name, step in variants.items()}
    first, *others = values.values()
    if any(not abs(value - first) <= TOLERANCE * abs(first) for value in others):
        raise SystemExit(f"{part}: the variants differ: {values}")
    times = common.in_turn(variants, rounds=rounds, warmup=0, device=device)
    useful = getattr(variants["packed"].func, "useful", None) if part == "packing" else None  # type: ignore[attr-defined]
    del variants
    own = ["--device", device, "--threads", str(threads), "--part", part, "--memory"]
    base, result = next(iter(times)), {}
    for name, taken in times.items():
        cpu, wall = statistics.median(one.cpu for one in taken), statistics.median(one.wall for one in taken)
        result[name] = {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "time_ratio": common.ratio([one.cpu for one in taken], [one.cpu for one in times[base]]),
            "tokens_per_cpu_second": useful / cpu if useful else None,
            "value": values[name],
            **common.in_own_process(__file__, [*own, name]),
        }
    return result


def show(part: str, result: dict[str, Any]) -> str:
    """The table of one part."""
    rows: list[list[object]] = [[part, "CPU s", "wall s", "tokens/CPU s", "time x first", "95 %", "adds MiB"]]
    for name, found in result.items():
        ratio, rate = found["time_ratio"], found["tokens_per_cpu_second"]
        spread = f"{ratio['low']:.2f}-{ratio['high']:.2f}"
        numbers = [f"{found['cpu_seconds']:.2f}", f"{found['wall_seconds']:.2f}", f"{rate:.0f}" if rate else ""]
        rows.append([name, *numbers, f"{ratio['median']:.2f}", spread, f"{found['added'] / common.MIB:.0f}"])
    return common.table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="may be repeated; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", metavar="VARIANT", help="only this variant's memory, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.part or list(PARTS)
    if options.memory:
        step = PARTS[parts[0]](options.device)[options.memory]
        print(json.dumps({"added": common.memory_peak(lambda: step(), options.device)}))
        return
    machine = common.machine(options.device)
    results = {part: run(part, options.rounds, options.device, options.threads) for part in parts}
    print("\n\n".join(show(part, result) for part, result in results.items()))
    print(f"written to {common.save('griffon', {'machine': machine, **results})}", file=sys.stderr)


if __name__ == "__main__":
    main()
