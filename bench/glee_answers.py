"""Parity cases of inference with other settings: the published GLEE answers a stored case again.

    PYTHONPATH=DEPS python bench/glee_answers.py --published CHECKOUT --like GOLDENS/infer_video \\
        --out CASES/infer_video_heads --set MODEL.MaskDINO.NHEADS=4
    python -m mmcore_glee.parity CASES/infer_video_heads

As bench/glee_cases.py does for training. Cases of images, clips, TAO's protocol and visual prompts are told apart by
what they store; `--images` and `--frames` give other pictures, `--original` another size of the original.
"""

import json
from contextlib import chdir
from typing import Any
from unittest import mock

import published
import torch
from glee_cases import arguments, build, configuration, fill, opened
from mmcore.geometry.masks import encode_all
from mmcore.parity import Case, deterministic_image
from safetensors.torch import save_file
from torch import Tensor

TOLERANCE = {"outputs_absolute": 2e-4, "scores_absolute": 2e-5, "boxes_pixels": 0.01, "mask_area_relative": 1e-3}


def pictures(like: Case) -> list[Tensor]:
    """The case's images in order."""
    given = like.data["images"]
    names = sorted(given, key=lambda name: int(name.split(".")[1]))
    return [torch.from_numpy(deterministic_image(*given[name])).permute(2, 0, 1) for name in names]


def raw(outputs: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """What the network said, as cases store it."""
    embed, masks = outputs["pred_track_embed"], outputs["pred_masks"]
    kept = {
        "pred_logits": outputs["pred_logits"],
        "pred_boxes": outputs["pred_boxes"],
        "pred_scores": outputs["pred_scores"],
        "pred_track_embed_sub": embed[..., :: max(1, embed.shape[-1] // 16)],
        "pred_masks_mean": masks.flatten(2).mean(-1),
    }
    return {prefix + name: value.detach().clone().contiguous() for name, value in kept.items()}


def watched(network: Any) -> list[dict[str, Any]]:
    """The predictor's outputs, call by call."""
    seen: list[dict[str, Any]] = []
    predict = network.glee.predictor.forward

    def kept(*given: Any, **more: Any) -> Any:
        outputs = predict(*given, **more)
        seen.append(outputs[0])
        return outputs

    network.glee.predictor.forward = kept
    return seen


def images(network: Any, like: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Each picture with its record."""
    seen, tensors, rles = watched(network), {}, {}
    for i, (image, record) in enumerate(zip(pictures(like), like.data["records"], strict=True)):
        if network.is_lsj:  # the stored picture comes before the grey
            side = network.glee.cfg.MODEL.EVA02.IMAGE_SIZE
            grey = torch.full((3, side, side), 128, dtype=torch.uint8)
            grey[:, : image.shape[1], : image.shape[2]] = image
            image = grey
        found = network([{**record, "image": image}])[0]["instances"]
        tensors |= raw(seen[i], "out.") if i == len(like.data["records"]) - 1 else {}
        masks = found.pred_masks.bool()
        tensors |= {
            f"result.{i}.scores": found.scores,
            f"result.{i}.classes": found.pred_classes,
            f"result.{i}.boxes": found.pred_boxes.tensor.contiguous(),
            f"result.{i}.mask_area": masks.flatten(1).sum(1).float(),
        }
        best = found.scores.argsort(descending=True, stable=True)[:5]
        rles[f"result.{i}.masks_top5_by_score"] = encode_all(masks[best].numpy())
    return tensors, {"masks_rle": rles, "topk": network.test_topk_per_image, "records": like.data["records"]}


def video(network: Any, like: Case, task: str, original: list[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A clip through the association, and what is made of it."""
    seen, orders, passed = watched(network), [], {}
    match, made = network.match_from_embds, network.minvis_inference_video

    def matched(*given: Any) -> Any:
        orders.append(match(*given))
        return orders[-1]

    def finished(*given: Any) -> Any:
        found = made(*given)
        passed["found"] = found
        return found

    network.match_from_embds, network.minvis_inference_video = matched, finished
    frames = pictures(like)
    if network.is_lsj:
        side = network.glee.cfg.MODEL.EVA02.IMAGE_SIZE
        padded = [torch.full((3, side, side), 128, dtype=torch.uint8) for _ in frames]
        for grey, frame in zip(padded, frames, strict=True):
            grey[:, : frame.shape[1], : frame.shape[2]] = frame
        frames = padded
    record = {"image": frames, "file_names": ["f"] * len(frames), "height": original[0], "width": original[1]}
    found = network(
        [{**record, "dataset_name": task, "video_id": 3, "length": len(frames), "image_ids": list(range(len(frames)))}]
    )
    if task == "tao_video":
        return {}, {"records": found, "record_count": len(found)}
    scores, labels = torch.tensor(found["pred_scores"]), torch.tensor(found["pred_labels"])
    masks, boxes = torch.stack(list(found["pred_masks"])), torch.stack(list(found["pred_boxes"]))
    best = scores.argsort(descending=True, stable=True)[:4]
    tensors = {
        "out.scores": scores,
        "out.labels": labels,
        "out.boxes": boxes,
        "out.mask_area": masks.flatten(2).sum(2),
        "out.frame_logits_mean": torch.cat([one["pred_logits"] for one in seen]).mean(-1),
        "out.frame_boxes": torch.cat([one["pred_boxes"] for one in seen]),
    }
    return tensors, {
        "assignments": [order.tolist() for order in orders],
        "window": network.video_window_size,
        "frames": len(frames),
        "original_size": original,
        "task": task,
        "masks_rle": {"out.masks_top4": encode_all(masks[best].flatten(0, 1).numpy())},
    }


def prompts(network: Any, like: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One rectangle in every mode."""
    x1, y1, x2, y2 = like.data["prompt_rectangle_xyxy"]
    seen, tensors = watched(network), {}
    given = network.preprocess_image([{"image": pictures(like)[0]}], "coco")
    for mode in ("box", "point", "scribble"):
        mask = torch.zeros(1, *given.tensor.shape[2:], dtype=torch.bool)
        mask[:, y1:y2, x1:x2] = True
        names = like.data["names"]
        network.glee(given, {"spatial": [mask]}, "coco", batch_name_list=names, is_train=False, visual_prompt_type=mode)
        tensors |= {name: value for name, value in raw(seen[-1], f"out.{mode}.").items() if "embed" not in name}
    return tensors, {name: like.data[name] for name in ("names", "prompt_rectangle_xyxy")}


def main() -> None:
    parser = arguments(
        __doc__,
        "a stored case of inference whose pictures are taken",
        "folder of the new case; its name begins as the stored one's",
    )
    parser.add_argument("--base", help="another of the published configs/")
    parser.add_argument("--images", type=json.loads, help='other pictures: {"in.0": [seed, height, width], ...}')
    parser.add_argument("--original", type=json.loads, help="another original size, [height, width]")
    parser.add_argument("--task", help="data set of a clip")
    options = parser.parse_args()
    checkout, like = opened(options)
    config = like.data["config"]
    config["base_config"] = options.base or config["base_config"]
    like.data["images"] = options.images or like.data["images"]
    for record in like.data.get("records", ()) if options.original else ():
        record["height"], record["width"] = options.original
    cfg = configuration(checkout, config["base_config"], config["overrides"])
    network = build(checkout, cfg, config["clip_text"])
    keys = fill(network)
    network.eval()
    network.test_topk_per_image = like.data.get("topk", 100)
    kind = like.name.split("_")[1]
    with chdir(checkout), published.OnDevice("cpu"), torch.no_grad(), mock.patch.object(torch.cuda, "empty_cache"):
        if kind in ("video", "tao"):
            task = options.task or ("tao_video" if kind == "tao" else like.data.get("task", "ytvis19"))
            tensors, data = video(network, like, task, options.original or like.data.get("original_size", [240, 320]))
        else:
            tensors, data = prompts(network, like) if kind == "prompt" else images(network, like)
    data |= {"family": "glee", "case": options.out.name, "images": like.data["images"], "config": config}
    data |= {"keys_file": "keys.json", "tolerance": TOLERANCE}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "keys.json").write_text(json.dumps(keys))
    (options.out / "case.json").write_text(json.dumps(data, default=float))
    if tensors:
        save_file(
            {name: value.detach().contiguous() for name, value in tensors.items()}, options.out / "tensors.safetensors"
        )
    print(f"{len(tensors)} tensors -> {options.out}")


if __name__ == "__main__":
    main()
