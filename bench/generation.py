"""Generation with room made once, beside growing tensors and a loop over rows: seconds a token.

    python bench/generation.py                 # a small Llama, 8 rows, 64 and 256 new tokens: two minutes on a CPU
    python bench/generation.py --tokens 1024

`grown` is the shortest way to write it: keys, values, masks and positions are concatenated at every step, keys that
several heads share are repeated, every token is brought to the host, and a Python loop over the rows asks each whether
it has ended. `one by one` is ours with a row
at a time, as an evaluation at batch size 1 asks. All give the same tokens: the likeliest ones, with a stop sequence
that never comes, so that no row ends early.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import common
import numpy as np
import torch
from mmcore.contract.values import map_tensors
from mmcore.language import attention, models
from mmcore.language.generate import Stop, generate
from mmcore.language.masking import Masking, masking_of
from mmcore.language.sequence import IGNORE, Encoded, Sequences
from mmcore.language.splice import lay_out
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

WORDS, WIDTH = 32000, 256
NEVER = Stop(ids=(WORDS + 1,), sequences=((WORDS + 1, WORDS + 2),))


def language(device: str) -> models.LanguageModel:
    """A small Llama with fresh weights, in evaluation mode."""
    torch.manual_seed(0)
    config = {
        "model_type": "llama",
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    return models.build(config).to(device).eval()


def prompts(rows: int, longest: int) -> list[Encoded]:
    """Random words, half to all of the longest."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 2, longest + 1, rows)
    return [Encoded(rng.integers(3, WORDS, n), np.full(n, IGNORE)) for n in lengths]


def repeating(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    """`attend` with one key per query head."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    return attention.attend(module, query, key, value, mask, **options)


@contextmanager
def keys_repeated() -> Generator[None]:
    """transformers calls `repeating` inside."""
    AttentionInterface.register(attention.NAME, repeating)
    try:
        yield
    finally:
        AttentionInterface.register(attention.NAME, attention.attend)


@torch.no_grad()
@keys_repeated()
def grown(model: models.LanguageModel, embeds: Tensor, sequences: Sequences, steps: int) -> list[list[int]]:
    """Greedy answers with everything concatenated and every row asked."""
    cache, answers = DynamicCache(), [list[int]() for _ in sequences.locations]
    hidden = model.run(embeds, sequences.positions, masking_of(sequences), cache)
    following = torch.tensor([place.length for place in sequences.locations], device=embeds.device)
    ends = torch.tensor([place.start + place.length - 1 for place in sequences.locations], device=embeds.device)
    last = hidden.gather(1, ends[:, None, None].expand(-1, 1, hidden.shape[-1]))
    valid, positions = sequences.valid, sequences.positions
    for step in range(steps):
        logits = model.lm_head(last)[:, 0].float()
        token = logits.argmax(-1)
        taken = torch.stack([token.float(), logits.softmax(-1).gather(-1, token[:, None])[:, 0]]).tolist()
        for row, answer in enumerate(answers):
            answer.append(int(taken[0][row]))
            if answer[-1] in NEVER.ids or any(tuple(answer[-len(end) :]) == end for end in NEVER.sequences):
                raise SystemExit("a row has ended")
        if step + 1 == steps:
            break
        position, following = following[:, None], following + 1
        valid = torch.cat([valid, valid.new_ones(len(token), 1)], 1)
        positions = torch.cat([positions, position], 1)
        masking = Masking(position, positions, valid=valid, longest=positions.shape[1])
        last = model.run(model.embed_tokens(token[:, None]), position, masking, cache)
    return answers


def run(rows: int, longest: int, steps: int, rounds: int, device: str) -> dict[str, Any]:
    """All ways for one number of new tokens."""
    model = language(device)
    sequences = map_tensors(lay_out(prompts(rows, longest), {}), lambda tensor: tensor.to(device))
    with torch.no_grad():
        embeds = model.embed(sequences, {})
    alone = [map_tensors(lay_out([prompt], {}), lambda tensor: tensor.to(device)) for prompt in prompts(rows, longest)]

    def one_by_one() -> list[list[int]]:
        with torch.no_grad():
            return [generate(model, model.embed(s, {}), s, max_new_tokens=steps, stop=NEVER).ids[0] for s in alone]

    variants = {
        "ours": lambda: generate(model, embeds, sequences, max_new_tokens=steps, stop=NEVER).ids,
        "grown": lambda: grown(model, embeds, sequences, steps),
        "one by one": one_by_one,
    }
    answers = [call() for call in variants.values()]
    if any(answer != answers[0] for answer in answers):
        raise SystemExit("the ways give different tokens")
    times = common.in_turn(variants, rounds=rounds, warmup=0, device=device)
    # On a CPU its own seconds: other programs do not count.
    wall = {name: [r.cpu if device == "cpu" else r.wall for r in found] for name, found in times.items()}
    return {
        "rows": rows,
        "prompt": longest,
        "new_tokens": steps,
        "milliseconds_a_step": {name: 1000 * statistics.median(found) / steps for name, found in wall.items()},
        "grown_over_ours": common.ratio(wall["grown"], wall["ours"]),
        "one_by_one_over_ours": common.ratio(wall["one by one"], wall["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=256, help="positions of the longest prompt")
    parser.add_argument("--tokens", type=int, action="append", help="new tokens; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    found = [run(given.rows, given.prompt, t, given.rounds, given.device) for t in given.tokens or (64, 256)]
    result = {"answers": found, "machine": common.machine(given.device)}
    print(json.dumps(result, indent=1))
    print(f"written to {common.save('generation', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
