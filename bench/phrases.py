"""What GLEE's memo of frozen text features costs once every name is known: one table and an index, beside a row a name.

    python bench/phrases.py                    # CLIP's width, 200 and 1,203 names; under a minute

`rows` keeps one tensor a phrase and stacks them in Python, which is the shortest way to write it. Both give the same
features, and the encoder is not run in either.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import common
import torch
from mmcore_glee.text_encoder import PhraseMemo
from torch import Tensor, nn

WIDTH, TOKENS = 512, 12
"""Channels of CLIP's text model, and tokens of the longest name of a batch."""


class Words(nn.Module):
    """Stands for CLIP: what a memo does once it has seen a name does not depend on it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(49408, WIDTH, device=device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        class Output:
            last_hidden_state = self.embed(input_ids)

        return Output


def row_by_row(rows: dict[str, Tensor], names: list[str], width: int) -> Tensor:
    """Every phrase's own tensor, cut or filled up, and all of them stacked."""
    found = []
    for name in names:
        row = rows[name][:width]
        found.append(torch.cat([row, row.new_zeros(width - len(row), WIDTH)]) if len(row) < width else row)
    return torch.stack(found)


def run(count: int, rounds: int, device: str) -> dict[str, Any]:
    """Both ways for one number of names, half of them kept at a smaller width than asked for."""
    torch.manual_seed(0)
    names = [f"name {i}" for i in range(count)]
    ids = torch.randint(0, 49406, (count, TOKENS), device=device)
    memo, clip = PhraseMemo(), Words(device)
    short, half = TOKENS - 3, count // 2
    ids[:half, short:] = 49407
    memo.encode(clip, names[:half], ids[:half, :short])
    with torch.no_grad():
        rows = dict(zip(names, [*clip.embed(ids[:half, :short]), *clip.embed(ids[half:])]))
        ours = memo.encode(clip, names, ids)
        if not torch.equal(ours, row_by_row(rows, names, TOKENS)):
            raise SystemExit("the two ways give different features")
        variants = {
            "table": lambda: memo.encode(clip, names, ids),
            "rows": lambda: row_by_row(rows, names, TOKENS),
        }
        times = common.in_turn(variants, rounds=rounds, warmup=3, device=device)
    wall = {name: [r.wall for r in found] for name, found in times.items()}
    return {
        "names": count,
        "milliseconds": {name: 1000 * statistics.median(found) for name, found in wall.items()},
        "rows_over_table": common.ratio(wall["rows"], wall["table"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, action="append", help="may be repeated")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    found = [run(count, given.rounds, given.device) for count in given.names or (200, 1203)]
    result = {"sizes": found, "machine": common.machine(given.device)}
    print(json.dumps(result, indent=1))
    print(f"written to {common.save('phrases', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
