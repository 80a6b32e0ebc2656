"""GLaMM's training step against a straightforward one: time and peak memory, losses equal.

    python bench/glamm_step.py                 # two cores: a few minutes

A step is forward, losses and backward of a GLaMM with few channels and the published geometry (CLIP 336/14, SAM
1024/16, 32 007 words) over three conversations about three pictures of 480 x 640, four masks each.

                    ours                                        plain (a conversation at a time, the obvious way)
    SAM             all pictures at once, positions inside      each picture alone, transformers' encoder
                    queries and keys; or cached maps
    tower           layers that are read, one pass              all layers, all states kept
    words           planned, one copy, fused attention          joined in a loop, whole score matrices, all states
    logits          supervised positions, in chunks             every position, float32, at once
    [SEG]           projected where one stands                  projected at every position
    masks           two products a picture, no large mask kept  resized twice in float32, kept for the backward pass

Run in turn; the run fails unless all have the same losses. `cached` is ours with SAM's maps from a cache.
"""

import argparse
import copy
import json
import statistics
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from mmcore.contract.values import MAIN, SEGMENT, ConversationSample, Draw, Encoded, Region, map_tensors
from mmcore.geometry.square import frame
from mmcore.language.sequence import IGNORE, IMAGE
from mmcore.language.sizes import LLAMA2_7B
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.sam.config import SamConfig
from mmcore.vision.sam.pixels import normalised, padded
from mmcore_glamm.batch import GlammBatch, collator_of
from mmcore_glamm.config import GlammConfig
from mmcore_glamm.model import Glamm
from mmcore_glamm.region_encoder import RegionConfig
from mmcore_glamm.tokens import TokenIds
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamVisionEncoder

CHOICES = ("ours", "cached", "plain")
IDS = TokenIds(box=32002, seg=32004)
SAMPLES, MASKS, SIZE = 3, 4, (480, 640)
TOLERANCE = 1e-3
"""Largest relative difference of a loss: float32 sums in another order."""
CONFIG = GlammConfig(
    language={
        **LLAMA2_7B,
        "vocab_size": 32007,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    tower=ClipTower(hidden_size=128, intermediate_size=512, num_layers=12, num_heads=4),
    sam=SamConfig(
        hidden_size=160,  # heads of 80 channels, as published
        num_layers=4,
        num_heads=2,
        global_layers=(1, 3),
        out_channels=64,
        decoder_mlp=256,
        iou_hidden=64,
    ),
    region=RegionConfig(groups=8, inner=64, place_hidden=32),
)


class Step:
    """One model and one batch; a call is forward and backward of one variant."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = Glamm(CONFIG).to(device).train()
        trained = ("language.", "seg_projection.", "sam.mask_decoder.")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        self.samples = [conversation(number) for number in range(SAMPLES)]
        batch = collator_of(CONFIG, IDS, CONFIG.max_length)(self.samples, 0)
        self.batch: GlammBatch = map_tensors(batch, lambda tensor: tensor.to(device))
        with torch.no_grad():
            maps = self.model.maps(self.batch)
        self.cached = replace(self.batch, other_images={}, features={SEGMENT: maps})
        self.language, self.encoder = same_language(self.model), same_encoder(self.model)

    def __call__(self, choice: str) -> dict[str, float]:
        """The three losses of the step."""
        losses = self.plain() if choice == "plain" else self.ours(self.cached if choice == "cached" else self.batch)
        torch.stack(list(losses.values())).sum().backward()
        self.model.zero_grad(set_to_none=True)
        self.language.zero_grad(set_to_none=True)
        return {name: loss.item() for name, loss in losses.items()}

    def ours(self, batch: GlammBatch) -> dict[str, Tensor]:
        """The plugin's forward, normalised within the micro-batch."""
        return {name: loss.total / batch.normalisers[loss.per] for name, loss in self.model(batch).items()}

    def plain(self) -> dict[str, Tensor]:
        """A conversation at a time; masks at the size of their pictures."""
        rows, labels, states = [], [], []
        for sample in self.samples:
            row, label = self.spliced(sample)
            rows.append(row)
            labels.append(label)
        longest = max(map(len, rows))
        padded_rows = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = torch.stack([torch.arange(longest, device=self.device) < len(row) for row in rows])
        out = self.language(inputs_embeds=padded_rows, attention_mask=mask.long(), output_hidden_states=True)
        targets = torch.stack([F.pad(label, (0, longest - len(label)), value=IGNORE) for label in labels])
        text = F.cross_entropy(out.logits[:, :-1].float().flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE)
        prompts = self.model.seg_projection(out.hidden_states[-1])
        bce = dice = torch.zeros((), device=self.device)
        for number, sample in enumerate(self.samples):
            places = np.flatnonzero(sample.encoded.ids == IDS.seg) - 1 + CONFIG.image_tokens - 1
            states = prompts[number, torch.from_numpy(places).to(self.device)]
            low = self.masks(sample, states)
            wanted = torch.stack([r.mask for r in sample.regions if r.mask is not None]).to(self.device).float()
            bce = bce + F.binary_cross_entropy_with_logits(low, wanted, reduction="none").flatten(1).mean(1).sum()
            chance, wanted = low.sigmoid().flatten(1), wanted.flatten(1)
            top = 2 * (chance / 1000 * wanted).sum(-1) + 1e-6
            dice = dice + (1 - top / ((chance / 1000).sum(-1) + (wanted / 1000).sum(-1) + 1e-6)).sum()
        count = SAMPLES * MASKS
        return {"text": text, "mask_bce": 2.0 * bce / count, "mask_dice": 0.5 * dice / count}

    def spliced(self, sample: ConversationSample) -> tuple[Tensor, Tensor]:
        """Rows and labels of one conversation."""
        with torch.no_grad():
            states = self.model.tower.hidden_states(sample.images[MAIN][0][None].to(self.device), range(13))
        image = self.model.projector(states[11][:, 1:])[0]
        ids, labels = (torch.from_numpy(part).to(self.device) for part in (sample.encoded.ids, sample.encoded.labels))
        place = int((ids == IMAGE).nonzero()[0])
        embed = self.language.get_input_embeddings()
        row = torch.cat([embed(ids[:place]), image, embed(ids[place + 1 :])])
        blank = torch.full((len(image),), IGNORE, device=self.device)
        return row, torch.cat([labels[:place], blank, labels[place + 1 :]])

    def masks(self, sample: ConversationSample, states: Tensor) -> Tensor:
        """Logits of one conversation's masks at the size of its picture."""
        sam = self.model.sam
        with torch.no_grad():
            pixels = normalised(sample.images[SEGMENT][0][None].to(self.device))
            features = self.encoder(pixels).last_hidden_state
        places, no_mask = sam.prompt_encoder()
        dense = no_mask[..., None, None].expand(1, -1, *features.shape[-2:])
        low, _ = SamMaskDecoder.forward(
            sam.mask_decoder, features, places, states[None, :, None], dense, multimask_output=False
        )
        side, (height, width) = CONFIG.sam.image_size, frame(SIZE, CONFIG.sam.image_size).resized
        large = F.interpolate(low[0].float(), (side, side), mode="bilinear", align_corners=False)
        return F.interpolate(large[..., :height, :width], SIZE, mode="bilinear", align_corners=False)[:, 0]


def conversation(number: int) -> ConversationSample:
    """A picture of noise, 60 to 160 words, the second half of them learned, and masks of rectangles."""
    rng = np.random.default_rng(number)
    ids = rng.integers(3, 32000, 60 + 50 * number)
    ids[:2], ids[3] = 1, IMAGE
    segs = np.linspace(len(ids) // 2 + 2, len(ids) - 3, MASKS).astype(int)
    ids[segs] = IDS.seg
    picture = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    masks = torch.zeros(MASKS, *SIZE, dtype=torch.uint8)
    for mask in masks:
        top, left = rng.integers(0, 200, 2)
        mask[top : top + 200, left : left + 260] = 1
    side = CONFIG.image_size
    return ConversationSample(
        encoded=Encoded(ids, np.where(np.arange(len(ids)) < len(ids) // 2, IGNORE, ids)),
        turns=(),
        images={
            MAIN: (torch.from_numpy(rng.standard_normal((3, side, side)).astype(np.float32)),),
            SEGMENT: (padded(picture, CONFIG.sam.image_size),),
        },
        draw=Draw("bench", number, 0),
        image_id=number,
        original_size=SIZE,
        regions=tuple(Region(mask=mask) for mask in masks),
    )


def same_language(model: Glamm) -> Any:
    """transformers' own class around the same parameters."""
    own = model.language
    config = copy.deepcopy(own.config)  # which attention it is to have would be written into ours
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    made.load_state_dict(own.state_dict(), assign=True)
    made.model.rotary_emb = type(made.model.rotary_emb)(made.config)  # its buffers are computed
    return made.to(own.lm_head.weight.device).train()


def same_encoder(model: Glamm) -> Any:
    """transformers' SAM encoder with the same values."""
    sam = CONFIG.sam
    made = SamVisionEncoder(
        SamVisionConfig(
            hidden_size=sam.hidden_size,
            output_channels=sam.out_channels,
            num_hidden_layers=sam.num_layers,
            num_attention_heads=sam.num_heads,
            image_size=sam.image_size,
            patch_size=sam.patch_size,
            mlp_dim=int(sam.hidden_size * sam.mlp_ratio),
            window_size=sam.window_size,
            global_attn_indexes=list(sam.global_layers),
            attn_implementation="eager",  # pyright: ignore[reportCallIssue] - taken by every configuration
        )
    )
    names = {".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", ".lin1.": ".mlp.lin1.", ".lin2.": ".mlp.lin2."}
    neck = {
        "neck.0.": "neck.conv1.",
        "neck.1.": "neck.layer_norm1.",
        "neck.2.": "neck.conv2.",
        "neck.3.": "neck.layer_norm2.",
    }
    state = {}
    for name, tensor in model.sam.image_encoder.state_dict().items():
        for ours, theirs in {**names, **neck, "patch_embed.": "patch_embed.projection."}.items():
            name = name.replace(ours, theirs) if ours in name else name
        state[name] = tensor
    made.load_state_dict(state)
    return made.to(next(model.parameters()).device).eval().requires_grad_(False)  # type: ignore[arg-type]


def run(rounds: int, device: str, threads: int) -> dict[str, Any]:
    """Every figure."""
    step = Step(device)
    losses = {choice: step(choice) for choice in CHOICES}
    differences = {
        choice: max(abs(found[name] - value) / value for name, value in losses["ours"].items())
        for choice, found in losses.items()
    }
    if worst := [choice for choice in CHOICES if not differences[choice] <= TOLERANCE]:
        raise SystemExit(f"{worst[0]} has losses {losses[worst[0]]} instead of {losses['ours']}")
    times = common.in_turn({c: partial(step, c) for c in CHOICES}, rounds=rounds, warmup=0, device=device)
    del step
    own = ["--device", device, "--threads", str(threads), "--memory"]
    memory = {choice: common.in_own_process(__file__, [*own, choice])["added"] for choice in CHOICES}
    variants = {}
    for choice in CHOICES:
        cpu, wall = [r.cpu for r in times[choice]], [r.wall for r in times[choice]]
        variants[choice] = {
            "cpu_seconds": statistics.median(cpu),
            "wall_seconds": statistics.median(wall),
            "cpu_ratio_to_ours": common.ratio(cpu, [r.cpu for r in times["ours"]]),
            "wall_ratio_to_ours": common.ratio(wall, [r.wall for r in times["ours"]]),
            "added": memory[choice],
            "memory_ratio_to_ours": memory[choice] / memory["ours"],
            "loss_difference": differences[choice],
        }
    return {"rounds": rounds, "losses": losses["ours"], "variants": variants}


def show(result: dict[str, Any], on_gpu: bool) -> str:
    """The table."""
    clock = "wall" if on_gpu else "cpu"
    rows: list[list[object]] = [
        ["variant", "CPU s", "wall s", "time x ours", "95 %", "adds MiB", "x ours", "loss diff"]
    ]
    for choice, figures in result["variants"].items():
        quotient = figures[f"{clock}_ratio_to_ours"]
        rows.append(
            [
                choice,
                f"{figures['cpu_seconds']:.2f}",
                f"{figures['wall_seconds']:.2f}",
                f"{quotient['median']:.2f}",
                f"{quotient['low']:.2f}-{quotient['high']:.2f}",
                f"{figures['added'] / common.MIB:.0f}",
                f"{figures['memory_ratio_to_ours']:.2f}",
                f"{figures['loss_difference']:.0e}",
            ]
        )
    return common.table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", choices=CHOICES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        step = Step(arguments.device)
        print(json.dumps({"added": common.memory_peak(lambda: step(arguments.memory), arguments.device)}))
        return
    machine = common.machine(arguments.device)
    result = run(arguments.rounds, arguments.device, arguments.threads)
    print(show(result, arguments.device.startswith("cuda")))
    print(common.save("glamm_step", {"machine": machine, **result}), file=sys.stderr)


if __name__ == "__main__":
    main()
