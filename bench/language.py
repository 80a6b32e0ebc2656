"""The language toolkit's training step against a straightforward one: useful tokens a second and peak memory.

    python bench/language.py                   # vocabularies of 32 000 and 128 257 words: under three minutes
    python bench/language.py --words 32000     # one of them

A step is splicing, forward, text loss and backward of a small Llama (4 layers, width 256) over six conversations whose
lengths spread like those of instruction data: an image of 144 rows and 24 task tokens, log-normal text, one sample in
six without an image. A useful token is one that is no padding.

                on (ours)                                       off (plain)
    packing     several samples to a row of at most 1024        one a row, padded to the longest, mask from padding
    loss        supervised positions, logits chunk by chunk     logits of every position, in float32, at once
    splicing    planned on the CPU, one copy by index           a loop over samples and placeholders

`plain` is transformers' own class with `labels`; `padded` is ours without packing, `whole logits` ours with all logits.
Run in turn; the run fails unless all have the same loss. The body of this Llama is small beside its output layer, more
so than in an 8-billion model (where the output layer is 6 % of the work): ratios of time overstate what the loss
saves there, ratios of the memory of logits do not depend on it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from mmcore.contract.values import map_tensors
from mmcore.language import models, splice
from mmcore.language.sequence import IGNORE, IMAGE, Encoded
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import AutoModelForCausalLM

CHOICES = ("ours", "padded", "whole logits", "plain")
VOCABULARIES = (32000, 128257)
EXPANSION = {IMAGE: (("image", 144), ("task", 24))}
SAMPLES, WIDTH = 6, 256
ROW = 1024
"""Longest packed row: 4096 scaled down like the image, which has a quarter of its 576 rows."""
TOLERANCE = 1e-4
"""Largest relative difference of the loss between variants: float32 sums in another order."""


class Step:
    """One model and one batch; a call is forward and backward of one variant."""

    def __init__(self, words: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = models.build(language(words)).to(device).train()
        self.encoded = conversations(words)
        images = sum(IMAGE in sample.ids for sample in self.encoded)
        self.features = {
            name: torch.randn(images, rows, WIDTH, device=device, requires_grad=True) for name, rows in EXPANSION[IMAGE]
        }
        self.published = same_weights(self.model)
        self.padded = splice.lay_out(self.encoded, EXPANSION)

    def __call__(self, choice: str) -> float:
        """The loss per learned token."""
        if choice == "plain":
            loss = self.plain()
        else:
            loss = self.ours(packed=choice != "padded", whole=choice == "whole logits")
        loss.backward()
        value = float(loss.detach())
        for module in (self.model, self.published):
            module.zero_grad(set_to_none=True)
        return value

    def ours(self, *, packed: bool, whole: bool) -> Tensor:
        """The toolkit's step; the layout, which a data worker makes, is timed with it."""
        plan = splice.lay_out(self.encoded, EXPANSION, pack_to=ROW if packed else None)
        plan = map_tensors(plan, lambda tensor: tensor.to(self.device))
        last = self.model(self.model.embed(plan, self.features), plan).last
        if not whole:
            return self.model.token_loss(last, plan) / len(plan.targets)
        return cross_entropy(self.model.lm_head(last).float().flatten(0, 1)[plan.supervised], plan.targets)

    def plain(self) -> Tensor:
        """Splice in a loop, pad, and let transformers make mask, logits and loss."""
        embed, rows, labels, used = self.published.get_input_embeddings(), [], [], 0
        for sample in self.encoded:
            pieces, learned = [], []
            for token, label in zip(np.split(sample.ids, cuts(sample)), np.split(sample.labels, cuts(sample))):
                if len(token) == 1 and token[0] == IMAGE:
                    pieces += [self.features[name][used] for name, _ in EXPANSION[IMAGE]]
                    learned += [IGNORE] * sum(rows for _, rows in EXPANSION[IMAGE])
                    used += 1
                else:
                    pieces.append(embed(torch.from_numpy(token).to(self.device)))
                    learned += label.tolist()
            rows.append(torch.cat(pieces))
            labels.append(torch.tensor(learned, device=self.device))
        longest = max(map(len, rows))
        mask = torch.stack([torch.arange(longest, device=self.device) < len(row) for row in rows])
        return self.published(
            inputs_embeds=torch.stack([pad(row, (0, 0, 0, longest - len(row))) for row in rows]),
            attention_mask=mask.long(),
            labels=torch.stack([pad(label, (0, longest - len(label)), value=IGNORE) for label in labels]),
        ).loss


def language(words: int) -> dict[str, Any]:
    """A small Llama with grouped keys."""
    return {
        "model_type": "llama",
        "vocab_size": words,
        "hidden_size": WIDTH,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "use_cache": False,
    }


def same_weights(model: models.LanguageModel) -> Any:
    """transformers' own class around the same parameters."""
    with torch.device("meta"):
        published = AutoModelForCausalLM.from_config(type(model.config)(**language(model.config.vocab_size)))
    published.load_state_dict(model.state_dict(), assign=True)
    published.model.rotary_emb = type(published.model.rotary_emb)(published.config)  # its buffers are computed
    return published.to(model.lm_head.weight.device).train()


def conversations(words: int) -> list[Encoded]:
    """Text of 20 to 500 tokens, the second half of it learned; an image in all but every sixth sample."""
    rng = np.random.default_rng(0)
    samples = []
    for i, length in enumerate(np.clip(rng.lognormal(4.3, 0.8, SAMPLES), 20, 500).astype(int)):
        ids = rng.integers(3, words, length)
        if i % 6 != 5:
            ids[3] = IMAGE
        samples.append(Encoded(ids, np.where(np.arange(length) < max(length // 2, 4), IGNORE, ids)))
    return samples


def cuts(sample: Encoded) -> np.ndarray:
    """Where a loop over placeholders splits a sample."""
    places = np.flatnonzero(sample.ids == IMAGE)
    return np.sort(np.concatenate([places, places + 1]))


def run(words: int, choices: Sequence[str], rounds: int, device: str, threads: int) -> dict[str, Any]:
    """Every figure of one vocabulary."""
    step = Step(words, device)
    losses = {choice: step(choice) for choice in choices}
    ours = losses["ours"]
    differences = {choice: abs(loss - ours) / ours for choice, loss in losses.items()}
    if worst := [choice for choice in choices if not differences[choice] <= TOLERANCE]:
        raise SystemExit(f"{worst[0]} has loss {losses[worst[0]]:.7g} instead of {ours:.7g}")
    times = common.in_turn({c: partial(step, c) for c in choices}, rounds=rounds, warmup=0, device=device)
    packed = splice.lay_out(step.encoded, EXPANSION, pack_to=ROW)
    shapes = {
        "useful": int(packed.valid.sum()),
        "targets": len(packed.targets),
        "padded": list(step.padded.shape),
        "packed": list(packed.shape),
    }
    del step
    own = ["--words", str(words), "--device", device, "--threads", str(threads), "--memory"]
    memory = {choice: common.in_own_process(__file__, [*own, choice]) for choice in choices}
    variants = {}
    for choice in choices:
        cpu, wall = [r.cpu for r in times[choice]], [r.wall for r in times[choice]]
        variants[choice] = {
            "cpu_seconds": statistics.median(cpu),
            "wall_seconds": statistics.median(wall),
            "useful_tokens_per_cpu_second": shapes["useful"] / statistics.median(cpu),
            "useful_tokens_per_second": shapes["useful"] / statistics.median(wall),
            "cpu_ratio_to_ours": common.ratio(cpu, [r.cpu for r in times["ours"]]),
            "wall_ratio_to_ours": common.ratio(wall, [r.wall for r in times["ours"]]),
            "memory_ratio_to_ours": memory[choice]["added"] / memory["ours"]["added"],
            "loss_difference": differences[choice],
            **memory[choice],
        }
    return {"words": words, "shapes": shapes, "rounds": rounds, "variants": variants}


def memory_of(words: int, choice: str, device: str) -> dict[str, int]:
    """Bytes that a step adds to what model and batch take."""
    step = Step(words, device)
    return {"added": common.memory_peak(lambda: step(choice), device)}


def show(result: dict[str, Any], on_gpu: bool) -> str:
    """The table of one vocabulary."""
    clock = "wall" if on_gpu else "cpu"
    rate = "useful_tokens_per_second" if on_gpu else "useful_tokens_per_cpu_second"
    rows: list[list[object]] = [
        ["variant", "CPU s", "wall s", f"tokens/{clock} s", "time x ours", "95 %", "adds MiB", "x ours", "loss diff"]
    ]
    for choice, figures in result["variants"].items():
        quotient = figures[f"{clock}_ratio_to_ours"]
        rows.append(
            [
                choice,
                f"{figures['cpu_seconds']:.2f}",
                f"{figures['wall_seconds']:.2f}",
                f"{figures[rate]:.0f}",
                f"{quotient['median']:.2f}",
                f"{quotient['low']:.2f}-{quotient['high']:.2f}",
                f"{figures['added'] / common.MIB:.0f}",
                f"{figures['memory_ratio_to_ours']:.2f}",
                f"{figures['loss_difference']:.0e}",
            ]
        )
    shapes = result["shapes"]
    (rows_padded, padded), (rows_packed, packed) = shapes["padded"], shapes["packed"]
    head = (
        f"{result['words']} words: {shapes['useful']} useful tokens, {shapes['targets']} learned; padded "
        f"{rows_padded}x{padded}, packed {rows_packed}x{packed}"
    )
    return f"{head}\n{common.table(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, action="append", help="vocabulary size; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", choices=CHOICES, metavar="VARIANT", help="only this variant's memory, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vocabularies = options.words or VOCABULARIES
    if options.memory:
        print(json.dumps(memory_of(vocabularies[0], options.memory, options.device)))
        return
    machine = common.machine(options.device)
    results = []
    for words in vocabularies:
        results.append(run(words, CHOICES, options.rounds, options.device, options.threads))
        print(show(results[-1], machine["device"].startswith("NVIDIA")), end="\n\n")
    path = common.save("language", {"machine": machine, "vocabularies": results})
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
