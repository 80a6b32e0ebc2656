"""Key lists of published checkpoints: every name and shape is consumed by our model and produced by it."""

from collections.abc import Iterable, Mapping

import torch
from mmcore.parity import Case, Check, Report
from torch import Tensor

from mmcore_visper import weights
from mmcore_visper.config import DepthDecoderConfig, VisperConfig
from mmcore_visper.dpt import DepthDecoder
from mmcore_visper.model import Visper
from mmcore_visper.parity.common import tower_of
from mmcore_visper.probe import VisperProbe
from mmcore_visper.published_config import from_published
from mmcore_visper.teachers.depth import DepthTeacher


def check_keys(case: Case, report: Report) -> None:
    """The published names with their shapes, in both directions, and the counts."""
    expected: Mapping[str, tuple[list[int], str]] = case.companion("keys.json")
    config = from_published(case.data["config"], kind=case.data["class"], tower=tower_of(case))
    with torch.device("meta"):
        model = VisperProbe(config) if config.probe else Visper(config)
        teacher = depth_teacher_tensors() if config.probe == "depth" else {}
    names = weights.upstream(config, teacher=teacher)
    produced = names.to_published(model.state_dict())
    report.equal("names", sorted(produced), sorted(expected))
    shapes = {name: list(tensor.shape) for name, tensor in produced.items()}
    report.equal("shapes", shapes, {name: list(shape) for name, (shape, _) in expected.items()})
    _check_consumed(report, config, model, expected)
    report.equal("n_keys", len(produced), case.data["n_keys"])
    report.equal("n_parameters", _count(produced.values()), case.data["n_parameters"])


def _check_consumed(
    report: Report, config: VisperConfig, model: Visper, expected: Mapping[str, tuple[list[int], str]]
) -> None:
    """Read the list as if it were a file: all of it is used but the teachers, and nothing of ours is left new."""
    file = {name: torch.empty(shape, device="meta") for name, (shape, _) in expected.items()}
    own = model.state_dict()
    _, told = weights.upstream(config, file).to_ours(file, own)
    report.equal("filled", sorted(told.filled), sorted(own))
    teachers = sorted(
        name for name in expected if name.startswith(tuple(p.removesuffix("*") for p in weights.TEACHERS))
    )
    report.equal("not used", sorted(told.ignored), teachers)


def depth_teacher_tensors() -> dict[str, Tensor]:
    """The published Depth-Anything-V2 file: DINOv2 and its decoder. Depth probes carry it along."""
    sizes = DepthDecoderConfig()
    decoder = DepthDecoder(sizes.in_channels, sizes.features, sizes.out_channels)
    shapes = {f"pretrained.{name}": shape for name, shape in dinov2_shapes(DepthTeacher()).items()}
    return {name: torch.empty(shape) for name, shape in shapes.items()} | decoder.state_dict()


def dinov2_shapes(teacher: DepthTeacher) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a DINOv2 file."""
    width, side = teacher.width, teacher.patch_size
    positions = (teacher.image_size // side) ** 2 + 1
    block = {
        **_pair("norm1", width),
        **_pair("attn.qkv", 3 * width, width),
        **_pair("attn.proj", width, width),
        "ls1.gamma": (width,),
        **_pair("norm2", width),
        **_pair("mlp.fc1", teacher.mlp_ratio * width, width),
        **_pair("mlp.fc2", width, teacher.mlp_ratio * width),
        "ls2.gamma": (width,),
    }
    return {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "mask_token": (1, width),
        **_pair("patch_embed.proj", width, 3, side, side),
        **{f"blocks.{i}.{name}": shape for i in range(teacher.depth) for name, shape in block.items()},
        **_pair("norm", width),
    }


def _pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


KINDS: dict[str, Check] = {"keys_": check_keys}
