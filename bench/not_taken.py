"""What was measured and not taken, so that it can be measured again when its libraries have changed.

    python bench/not_taken.py                       # channels_last
    python bench/not_taken.py --photos FOLDER       # and TorchCodec's JPEG decoding, where it is installed

channels_last: GLEE Lite's backbone on one 480x640 image, forward and backward, weights and image laid out by channels.
TorchCodec: the photographs of a folder to RGB bytes, beside Pillow; the run fails unless all pixels are equal. Each is
a ratio of rounds measured in turn, CPU seconds, one thread.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from mmcore_glee.backbone import ResNet
from mmcore_glee.config import VARIANTS
from PIL import Image

PHOTOS = 100


def compare(taken: Callable[[], object], other: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Median CPU ms of both, and what is taken over the other."""
    measured = common.in_turn({"taken": taken, "other": other}, rounds=rounds)
    seconds = {name: [one.cpu for one in of] for name, of in measured.items()}
    return {
        "ms": {name: 1000 * sorted(of)[len(of) // 2] for name, of in seconds.items()},
        "taken_over_other": common.ratio(seconds["taken"], seconds["other"]),
    }


def channels_last(rounds: int) -> dict[str, Any]:
    """The backbone in both layouts."""
    torch.manual_seed(0)
    network = ResNet(VARIANTS["lite"])
    image = torch.randn(1, 3, 480, 640)
    sums = {}

    def step(layout: torch.memory_format) -> None:
        network.to(memory_format=layout).zero_grad(set_to_none=True)
        total = sum(features.square().mean() for features in network(image.contiguous(memory_format=layout)))
        assert isinstance(total, torch.Tensor)
        total.backward()
        sums[layout] = float(total)

    found = compare(partial(step, torch.contiguous_format), partial(step, torch.channels_last), rounds)
    first, second = sums.values()
    assert abs(first - second) < 1e-5 * abs(first), f"the layouts differ: {first} and {second}"
    return found


def torchcodec(folder: Path, rounds: int) -> dict[str, Any]:
    """The photographs by Pillow and by TorchCodec."""
    from torchcodec.decoders import ImageReadMode, decode_jpeg  # pyright: ignore[reportMissingImports]

    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:PHOTOS]]

    def by_pillow(content: bytes) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(content)).convert("RGB"))

    def by_torchcodec(content: bytes) -> np.ndarray:
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return pixels.permute(1, 2, 0).contiguous().numpy()

    assert files, f"no photographs below {folder}"
    for content in files:
        assert np.array_equal(by_pillow(content), by_torchcodec(content)), "pixels differ"

    def all_by(decode: Callable[[bytes], np.ndarray], contents: Sequence[bytes]) -> None:
        for content in contents:
            decode(content)

    found = compare(partial(all_by, by_pillow, files), partial(all_by, by_torchcodec, files), rounds)
    return {**found, "photographs": len(files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = {"channels_last": channels_last(given.rounds), "machine": common.machine()}
    if given.photos:
        result["torchcodec"] = torchcodec(given.photos, given.rounds)
    print(json.dumps(result, indent=1))
    print(f"written to {common.save('not_taken', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
