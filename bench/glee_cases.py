"""Parity cases of other settings: the published GLEE runs a stored training case again with settings of your choice.

    PYTHONPATH=DEPS python bench/glee_cases.py --published CHECKOUT --like GOLDENS/train_coco --out CASES/train_heads \\
        --set MODEL.MaskDINO.NHEADS=4 --set MODEL.MaskDINO.DEC_LAYERS=2
    python -m mmcore_glee.parity CASES/train_heads

Images, objects and scripted draws are the stored case's, weights the deterministic ones of every case; what the
published code then draws for itself is written down with its losses, outputs, matching and gradients, in the format of
the stored cases, which `python -m mmcore_glee.parity` reads. How the published code comes to run here is told in
published.py. `--task` asks for another data set's names, `--clip num_attention_heads=2` changes the text encoder.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import published
import torch
from mmcore.geometry.masks import decode_all, encode_all
from mmcore.parity import Case, deterministic_array, deterministic_image
from mmcore_glee.tokenizer import MAX_TOKENS, tokenise
from safetensors.torch import save_file
from torch import Tensor

CONSTANT = ("relative_position_index", "freqs_cos", "freqs_sin", "empty_weight", "position_ids")
"""Ends of the names that construction decides."""
TOLERANCE = {"losses_relative": 1e-4, "outputs_absolute": 2e-4, "gradients_relative": 1e-2}


class Recorder:
    """What the published code draws and finds during one step, under the names of the cases."""

    def __init__(self, layers: int, *, clips: bool, seg: bool, two_stage: bool) -> None:
        sets = ["final", *map(str, range(layers)), *(["interm"] if two_stage else [])]
        self.matchings = iter(["track", *sets] if clips else sets)
        noised = {"final": "dn", **{str(i): f"dn_{i}" for i in range(0 if two_stage else 1, layers)}}
        self.points = iter([name for one in sets for name in (one, *([noised[one]] if seg and one in noised else []))])
        self.tensors: dict[str, Tensor] = {}
        self.matching: dict[str, Any] = {}
        self.prompts: list[Tensor] = []
        self.outputs: Any = None
        self.dn: dict[str, int] | None = None
        self.seen: dict[str, Any] = {}
        self.permutations = 0
        self.scripted: list[list[Any]] = []

    def keep(self, name: str, value: Tensor) -> Tensor:
        self.tensors[name] = value.detach().clone().contiguous()
        return value


def configuration(checkout: Path, base: str, overrides: Mapping[str, Any]) -> Any:
    """The published configuration of a file, with other values for some keys."""
    from detectron2.config import get_cfg  # pyright: ignore[reportMissingImports]
    from glee.config import add_glee_config  # pyright: ignore[reportMissingImports]

    cfg = get_cfg()
    add_glee_config(cfg)
    cfg.merge_from_file(str(checkout / published.PROJECT / "configs" / base))
    cfg.MODEL.DEVICE = "cpu"
    for section in ("SWIN", "EVA02"):
        cfg.MODEL[section].PRETRAINED_WEIGHT = None
    for key, value in overrides.items():
        cfg.merge_from_list([key, value])
    return cfg


def build(checkout: Path, cfg: Any, clip: Mapping[str, Any]) -> Any:
    """The published model, with a text encoder of these sizes, deterministic weights and no dropout in its fusion."""
    from detectron2.modeling import build_model  # pyright: ignore[reportMissingImports]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if not hasattr(CLIPTokenizer, "batch_encode_plus"):
        CLIPTokenizer.batch_encode_plus = CLIPTokenizer.__call__  # type: ignore[attr-defined]

    def of_these_sizes(folder: str) -> CLIPTextModel:
        del folder
        return CLIPTextModel(CLIPTextConfig(**clip))

    with mock.patch.object(CLIPTextModel, "from_pretrained", of_these_sizes), chdir(checkout):
        network = build_model(cfg).train()
    for module in network.modules():
        if type(module).__name__ == "BiMultiHeadAttention":
            module.dropout = 0.0
    network.all_loss_nams = []
    return network


def fill(network: Any) -> dict[str, Any]:
    """Deterministic weights; the list of the model's keys, as a case keeps it."""
    keys: dict[str, Any] = {}
    first: dict[int, str] = {}
    for own, tensor in network.state_dict(keep_vars=True).items():
        name = published_name(own)
        kind = "fill"
        if name.endswith(CONSTANT):
            kind = "constant"
        elif id(tensor) in first:
            kind = f"alias:{first[id(tensor)]}"
        else:
            first[id(tensor)] = name
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(deterministic_array(name, tuple(tensor.shape)))))
        keys[name] = [list(tensor.shape), str(tensor.dtype).removeprefix("torch."), kind]
    return keys


def published_name(own: str) -> str:
    """The name under which a case knows a tensor."""
    if "text_encoder" in own and ".text_model." not in own:
        own = own.replace("text_encoder.", "text_encoder.text_model.")
        own = own.replace("text_encoder_teacher.", "text_encoder_teacher.text_model.")
    return own


def inputs(like: Case, pictures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stored images and objects as the published model takes them."""
    from detectron2.structures import BitMasks, Boxes, Instances  # pyright: ignore[reportMissingImports]

    def of(place: str) -> tuple[Tensor, Any]:
        image = torch.from_numpy(deterministic_image(*pictures[f"in.{place}.image"])).permute(2, 0, 1)
        instances, given = Instances((image.shape[1], image.shape[2])), like.tensors
        instances.gt_boxes = Boxes(given[f"in.{place}.boxes_xyxy"])
        instances.gt_classes = given[f"in.{place}.classes"]
        rles = (like.data.get("masks_rle") or {}).get(f"in.{place}.masks")
        if rles is not None:
            masks = torch.from_numpy(decode_all(rles)).bool() if rles else torch.zeros(0, *image.shape[1:]).bool()
            instances.gt_masks = BitMasks(masks)
        if f"in.{place}.ids" in given:
            instances.gt_ids = given[f"in.{place}.ids"].clone()
        return image, instances

    places = [name.split(".")[1:-1] for name in pictures]
    batch: list[dict[str, Any]] = []
    for sample in sorted({place[0] for place in places}, key=int):
        frames = sorted((place for place in places if place[0] == sample), key=lambda place: int(place[-1]))
        made = [of(".".join(place)) for place in frames]
        clip = len(frames[0]) > 1
        one: dict[str, Any] = {"image": [m[0] for m in made] if clip else made[0][0]}
        one["instances"] = [m[1] for m in made] if clip else made[0][1]
        if like.data.get("task") != "grounding":
            one["dataset_name"] = like.data["task"]
        if not clip:
            one["object_descriptions"] = [f"thing {sample} {i}" for i in range(len(one["instances"]))]
        if "expressions" in like.data:
            said = like.data["expressions"][int(sample)]
            one["expressions"] = [said] * len(frames) if clip else said
        batch.append(one)
    return batch


@contextmanager
def watched(network: Any, like: Case, seen: Recorder) -> Iterator[None]:
    """Draws are written down, scripted ones come from the stored case."""
    scripted = [list(entry) for entry in like.data.get("other_draws", ())]
    rand, rand_like, randint_like, randperm = torch.rand, torch.rand_like, torch.randint_like, torch.randperm

    def draw(kind: str, otherwise: Callable[[], Any]) -> Any:
        at = next((i for i, entry in enumerate(scripted) if entry[1] == kind), None)
        value = otherwise() if at is None else scripted.pop(at)[2]
        seen.scripted.append(["", kind, value])
        return value

    def sample(population: Any, k: int) -> list[Any]:
        pool = sorted(population) if isinstance(population, set) else list(population)
        return draw("sample", lambda: whole_sample(pool, k))

    def uniform() -> float:
        return draw("nprand", lambda: 0.5)

    def permuted(count: int) -> Tensor:
        seen.permutations += 1
        return seen.keep(f"draw.randperm.{seen.permutations - 1}", randperm(count))

    def noise(like_: Tensor) -> Tensor:
        name = "draw.dn.box" if like_.ndim == 2 else "draw.dn.label_probability"
        return seen.keep(name, rand_like(like_))

    whole_sample = random.sample
    matcher, criterion = network.criterion.matcher, network.criterion
    matched, lost = type(matcher).memory_efficient_forward, type(criterion).get_loss

    def match(self: Any, outputs: Any, targets: Any, *rest: Any) -> Any:
        name, count = next(seen.matchings), [0]

        def points(*shape: Any, **options: Any) -> Tensor:
            count[0] += 1
            return seen.keep(f"draw.match.{name}.{count[0] - 1}", rand(*shape, **options))

        with mock.patch.object(torch, "rand", points):
            pairs = matched(self, outputs, targets, *rest)
        seen.matching[name] = [[q.tolist(), o.tolist()] for q, o in pairs]
        return pairs

    def loss(self: Any, kind: str, outputs: Any, *rest: Any) -> Any:
        if kind != "masks":
            return lost(self, kind, outputs, *rest)
        name, parts = next(seen.points), iter(("oversampled", "random"))
        keep = lambda *shape, **options: seen.keep(f"draw.points.{name}.{next(parts)}", rand(*shape, **options))  # noqa: E731
        with mock.patch.object(torch, "rand", keep):
            return lost(self, kind, outputs, *rest)

    with (
        mock.patch.object(random, "sample", sample),
        mock.patch.object(np.random, "rand", uniform),
        mock.patch.object(torch, "randperm", permuted),
        mock.patch.object(torch, "rand_like", noise),
        mock.patch.object(torch, "randint_like", lambda *a: seen.keep("draw.dn.label_value", randint_like(*a))),
        mock.patch.object(type(matcher), "memory_efficient_forward", match),
        mock.patch.object(type(criterion), "get_loss", loss),
    ):
        yield


def hook(network: Any, seen: Recorder) -> None:
    """Keep what passes between the parts of the model."""
    glee = network.glee
    template, predict, criterion = glee.get_template, glee.predictor.forward, network.criterion.forward

    def shown(images: Any, masks: Any, mode: str = "scribble") -> Any:
        seen.seen["template"] = ([mask[0, 0] for mask in masks], mode)
        tokens, valid = template(images, masks, mode)
        seen.keep("prompt.template_tokens_mean_per_token", tokens.mean(-1))
        seen.seen["tokens"] = list(tokens.shape)
        return tokens, valid

    def predicted(levels: Any, mask_features: Any, **rest: Any) -> Any:
        seen.seen |= {"levels": levels, "mask_features": mask_features, "extra": rest["extra"]}
        return predict(levels, mask_features, **rest)

    def judged(outputs: Any, targets: Any, mask_dict: Any, task: str) -> Any:
        seen.outputs, seen.seen["targets"] = outputs, targets
        seen.dn = None if mask_dict is None else {"pad_size": mask_dict["pad_size"], "groups": mask_dict["scalar"]}
        found = criterion(outputs, targets, mask_dict, task)
        seen.seen["noised"] = None if mask_dict is None else mask_dict["output_known_lbs_bboxes"]
        return found

    run = glee.forward

    def named(*given: Any) -> Any:
        seen.seen["names"] = given[4]
        return run(*given)

    glee.forward = named
    glee.get_template, glee.predictor.forward, network.criterion.forward = shown, predicted, judged
    prepare = network.preprocess_image

    def prepared(*given: Any) -> Any:
        images = prepare(*given)
        seen.seen["images"] = images.tensor
        return images

    network.preprocess_image = prepared


def step(network: Any, like: Case, batch: list[dict[str, Any]], seen: Recorder, checkout: Path) -> dict[str, Any]:
    """One step; what `case.json` says of it."""
    hook(network, seen)
    torch.manual_seed(0)
    random.seed(0)
    with chdir(checkout), published.OnDevice("cpu"), watched(network, like, seen):
        losses = network(batch)
    total = torch.stack([value.reshape(()) for value in losses.values()]).sum()
    total.backward()
    seen.keep("total", total.reshape(1))
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = {
        published_name(name): torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in network.named_parameters()
        if p.requires_grad
    }
    images, levels, features = (seen.seen[name] for name in ("images", "levels", "mask_features"))
    return {
        "losses": {name: float(value) for name, value in losses.items()},
        "matching": seen.matching,
        "dn": seen.dn,
        "padded_images": {"shape": list(images.shape), "mean": float(images.mean()), "std": float(images.std())},
        "stats": {
            "mask_features": [float(features.mean()), float(features.std())],
            "multi_scale": [[float(x.mean()), float(x.std()), list(x.shape)] for x in levels],
        },
        "grad_norms": {name: float(value.norm()) for name, value in gradients.items()},
        "grad_zero_or_none": sum(p.grad is None or not bool(p.grad.any()) for p in parameters),
    }


def outputs_of(seen: Recorder) -> None:
    """The outputs of every set that cases store."""
    final = seen.outputs
    for name in ("pred_logits", "pred_boxes", "pred_scores", "pred_masks"):
        seen.keep(f"out.{name}", final[name])
    sets = {f"aux{i}": one for i, one in enumerate(final["aux_outputs"])}
    if "interm_outputs" in final:
        sets["interm"] = final["interm_outputs"]
    if seen.seen["noised"] is not None:
        sets["dn"] = seen.seen["noised"]
    for name, one in sets.items():
        seen.keep(f"out.{name}.pred_boxes", one["pred_boxes"])
        seen.keep(f"out.{name}.pred_logits_mean", one["pred_logits"].mean(-1))
    for i, target in enumerate(seen.seen["targets"]):
        seen.keep(f"target.{i}.boxes", target["boxes"])
        seen.keep(f"target.{i}.labels", target["labels"])
        if "inst_id" in target:
            seen.keep(f"target.{i}.inst_id", target["inst_id"])
        if target["masks"] is not None:
            seen.keep(f"target.{i}.mask_area", target["masks"].flatten(1).sum(1))
    extra = seen.seen["extra"]
    for level, tokens in enumerate(extra.get("visual_prompt_tokens", ())):
        seen.keep(f"prompt.level{level}.tokens_mean", tokens.mean(-1))
        seen.keep(f"prompt.level{level}.pad_mask", extra["visual_prompt_nonzero_mask"][level].to(torch.uint8))


def asked(network: Any, like: Case, task: str) -> None:
    """Make a stored case one of another data set: its task, classes that it has, and expressions."""
    names, expressions = network.dataset_name_dicts.get(task, ["object"]), task in ("grounding", "rvos")
    like.data["task"] = task
    for name, value in like.tensors.items():
        if name.startswith("in.") and name.endswith(".classes"):
            like.tensors[name] = value % len(names)
    if expressions:
        clips = sorted({name.split(".")[1] for name in like.data["images"]})
        like.data["expressions"] = [f"the thing number {clip} on the left" for clip in clips]
        said = [like.data["expressions"][clips.index(name.split(".")[1])] for name in sorted(like.data["images"])]
        ids, mask = tokenise(said, MAX_TOKENS)
        like.tensors["grounding_input_ids"], like.tensors["grounding_attention_mask"] = ids, mask


def arguments(about: str | None, like: str, out: str) -> argparse.ArgumentParser:
    """The options of whatever makes cases: where from, like which, with which other settings, and where to."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="checkout of FoundationVision/GLEE")
    parser.add_argument("--like", type=Path, required=True, help=like)
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the published config.py")
    parser.add_argument("--clip", action="append", default=[], metavar="KEY=VALUE", help="of CLIP's text config")
    return parser


def opened(options: argparse.Namespace) -> tuple[Path, Case]:
    """The checkout, ready to be imported, and the stored case with the settings that are asked for."""
    checkout, like = options.published.resolve(), Case(options.like)
    published.use(checkout)
    like.data["config"]["overrides"] |= published.assignments(options.set)
    like.data["config"]["clip_text"] |= published.assignments(options.clip)
    return checkout, like


def main() -> None:
    parser = arguments(
        __doc__, "a stored training case whose inputs are taken", "folder of the new case; its name begins with train_"
    )
    parser.add_argument("--task", help="another data set of the published code, whose names are asked for")
    options = parser.parse_args()
    checkout, like = opened(options)
    config = like.data["config"]
    cfg = configuration(checkout, config["base_config"], config["overrides"])
    network = build(checkout, cfg, config["clip_text"])
    keys = fill(network)
    if options.task:
        asked(network, like, options.task)
    layers = cfg.MODEL.MaskDINO.DEC_LAYERS - (0 if cfg.MODEL.MaskDINO.INITIAL_PRED else 1)
    clips = like.data.get("task") in network.video_task_list and not like.data.get("prompt_mode")
    decoder = cfg.MODEL.MaskDINO
    seen = Recorder(layers, clips=clips, seg=decoder.DN == "seg", two_stage=decoder.TWO_STAGE)
    found = step(network, like, inputs(like, like.data["images"]), seen, checkout)
    outputs_of(seen)
    kept = ("family", "images", "masks_rle", "task", "names", "expressions", "prompt_mode")
    data = {name: like.data[name] for name in kept if name in like.data} | found
    data |= {
        "other_draws": seen.scripted,
        "case": options.out.name,
        "config": config,
        "keys_file": "keys.json",
        "tolerance": TOLERANCE,
    }
    if "template" in seen.seen:
        masks, mode = seen.seen["template"]
        data |= {"prompt_template_tokens": seen.seen["tokens"], "prompt_mode": mode}
        stored = {f"prompt.{i}.template_mask": encode_all(mask[None].numpy()) for i, mask in enumerate(masks)}
        data["masks_rle"] = {**data["masks_rle"], **stored}
    stored = {
        name: value
        for name, value in like.tensors.items()
        if name.startswith("in.") or "input_ids" in name or "attention_mask" in name
    }
    if seen.seen.get("names") and "expressions" not in like.data:
        data["names"] = list(seen.seen["names"])
        stored["input_ids"], stored["attention_mask"] = tokenise(data["names"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "keys.json").write_text(json.dumps(keys))
    (options.out / "case.json").write_text(json.dumps(data))
    save_file(stored | seen.tensors, options.out / "tensors.safetensors")
    print(f"{len(seen.tensors)} tensors, total {float(seen.tensors['total']):.6g} -> {options.out}")


if __name__ == "__main__":
    main()
