"""GLEE's published code in this process, from a checkout of FoundationVision/GLEE that the caller names.

Nothing of it is copied here. It asks for a GPU and for libraries of 2023; so old names of Pillow and numpy are put
back, toolkits for evaluation that are not installed stand in empty, "cuda" means the device of the benchmark, and CLIP
starts from its configuration (speed does not ask for weights). Its plain `grid_sample` path serves deformable
attention, as on any machine without its CUDA extension. A few more packages must be importable:

    pip install --no-deps --target DEPS fvcore iopath omegaconf antlr4-python3-runtime==4.9.3 yacs portalocker \\
        termcolor cloudpickle lvis hydra-core shapely
    PYTHONPATH=DEPS python bench/loader.py --coco FOLDER --published CHECKOUT
"""

import ast
import importlib
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

PROJECT = Path("projects/GLEE")
_EVALUATION = ("pycocotools.ytvos", "pycocotools.ytvoseval", "fairscale", "fairscale.nn", "fairscale.nn.checkpoint")
_OLD_PILLOW = {"LINEAR": Image.Resampling.BILINEAR, "CUBIC": Image.Resampling.BICUBIC}


class OnDevice(TorchFunctionMode):
    """Where the published code says "cuda", it gets this device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0].to(self.device)
        if func is torch.Tensor.to:
            args = [self.device if str(one).startswith("cuda") else one for one in args]
            kwargs = {name: self.device if name == "device" else one for name, one in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def use(checkout: Path) -> None:
    """Make its modules importable."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name, value in _OLD_PILLOW.items():
        setattr(Image, name, value)
    for name, kind in (("bool", np.bool_), ("int", int), ("float", float)):
        if name not in vars(np):
            setattr(np, name, kind)
    for name in _EVALUATION:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = _Empty(name)
    sys.path[:0] = [str(checkout), str(checkout / PROJECT)]
    with chdir(checkout):  # some modules open files by relative paths while they are imported
        importlib.import_module("glee")


class _Empty(types.ModuleType):
    """Gives a class for whatever is imported from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def configuration(checkout: Path, stage: str = "Stage2_joint_training_CLIPteacher_R50") -> Any:
    """The published configuration of GLEE Lite's stage."""
    from detectron2.config import get_cfg  # pyright: ignore[reportMissingImports]
    from glee.config import add_glee_config  # pyright: ignore[reportMissingImports]

    cfg = get_cfg()
    add_glee_config(cfg)
    cfg.merge_from_file(str(checkout / PROJECT / f"configs/images/Lite/{stage}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def mapper(checkout: Path) -> Any:
    """What turns a record of detectron2 into a sample of GLEE Lite's training, with its masks."""
    from glee.data import RefCOCODatasetMapper  # pyright: ignore[reportMissingImports]

    return RefCOCODatasetMapper(configuration(checkout), is_train=True)


def coco_records(annotations: Path, images: Path) -> list[dict[str, Any]]:
    """Records as the published code registers them."""
    from detectron2.data.datasets import load_coco_json  # pyright: ignore[reportMissingImports]

    return [one for one in load_coco_json(str(annotations), str(images), "bench_coco") if one["annotations"]]


def model(checkout: Path, device: str) -> Any:
    """GLEE Lite with weights as they begin."""
    from detectron2.modeling import build_model  # pyright: ignore[reportMissingImports]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    if not hasattr(CLIPTokenizer, "batch_encode_plus"):
        CLIPTokenizer.batch_encode_plus = CLIPTokenizer.__call__  # type: ignore[attr-defined]

    def random(folder: str) -> CLIPTextModel:
        return CLIPTextModel(CLIPTextConfig.from_pretrained(folder))

    whole, CLIPTextModel.from_pretrained = CLIPTextModel.from_pretrained, random  # type: ignore[method-assign]
    cfg = configuration(checkout)
    cfg.MODEL.DEVICE = device
    try:
        with chdir(checkout):
            return build_model(cfg).train()
    finally:
        CLIPTextModel.from_pretrained = whole  # type: ignore[method-assign]


def step(checkout: Path, batch: Any, ours: Any, device: str) -> Callable[[], dict[str, float]]:
    """Forward and backward of the published GLEE Lite with our model's weights, on the benchmark's batch.

    What it draws (points, denoising, dropout) it draws itself, so its losses are near ours, not equal.
    """
    use(checkout)
    network = model(checkout, device)
    weights = ours.published("upstream").to_published(ours.state_dict())
    if not hasattr(network.glee.text_encoder, "text_model"):  # transformers 5 has left out this level of names
        weights = {name.replace(".text_model.", "."): tensor for name, tensor in weights.items()}
    missing, _ = network.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "num_batches" not in name and "position_ids" not in name], missing[:5]

    def whole() -> dict[str, float]:
        with chdir(checkout), OnDevice(device):
            losses = network(inputs(batch))
            total = torch.stack(list(losses.values()))
            total.sum().backward()
            network.zero_grad(set_to_none=True)
        return dict(zip(losses, total.tolist(), strict=True))

    return whole


def inputs(batch: Any) -> list[dict[str, Any]]:
    """The benchmark's batch as the published model takes it."""
    from detectron2.structures import BitMasks, Boxes, Instances  # pyright: ignore[reportMissingImports]
    from mmcore.geometry.boxes import cxcywh_to_xyxy

    given, begin = [], 0
    for image, size, count in zip(batch.images, batch.image_sizes, batch.num_objects, strict=True):
        objects = slice(begin, begin := begin + count)
        height, width = size
        instances = Instances(size)
        scale = torch.tensor([width, height, width, height])
        instances.gt_boxes = Boxes(cxcywh_to_xyxy(batch.boxes_cxcywh[objects]) * scale)
        instances.gt_classes = batch.labels[objects]
        instances.gt_masks = BitMasks(batch.masks[objects].bool())
        given.append({"image": image, "instances": instances, "task": batch.task, "height": height, "width": width})
    return given


def assignments(given: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; values as Python writes them, else as they stand."""
    values = {}
    for one in given:
        key, _, text = one.partition("=")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return values


os.environ.setdefault("DETECTRON2_DATASETS", os.devnull)
