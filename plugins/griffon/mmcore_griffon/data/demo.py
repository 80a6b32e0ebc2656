"""Sample data for `--demo`: pictures of one square and where it is, in LLaVA's format."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 60, 220), "yellow": (230, 220, 40)}
SIDE = 112


def write_demo(root: Path) -> None:
    """Training and held-back pictures below `root`; nothing when they are there."""
    for split, count, seed in (("train", 64, 0), ("val", 16, 1)):
        target = Path(root) / "griffon" / f"{split}.json"
        if target.exists():
            continue
        folder = target.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        records = []
        for number in range(count):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = generator.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
            top, left = (int(place) for place in generator.integers(0, SIDE - 40, 2))
            pixels[top : top + 40, left : left + 40] = COLOURS[colour]
            box = ",".join(f"{value / SIDE:.3f}" for value in (left, top, left + 40, top + 40))
            name, question, answer = f"{number:04d}.png", f"Where is the {colour} square?", f"square-[{box}]"
            Image.fromarray(pixels).save(folder / name)
            if split == "train":
                turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
                records.append({"id": name, "image": name, "conversations": turns})
            else:
                records.append({"question_id": number, "image": name, "text": question, "answer": answer})
        target.write_text(json.dumps(records))
