"""What the checks share: the model a case describes, its batch, and its random numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcore.data.collate import pad_images, pad_masks, relative_boxes
from mmcore.errors import WeightsError
from mmcore.geometry.masks import decode_all
from mmcore.parity import Case, NotRun, Report, deterministic_array, deterministic_image
from mmcore.weights.maps import WeightMap
from torch import Tensor

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LITE
from mmcore_glee.denoising import TABLE_OF_TASK
from mmcore_glee.model import Glee
from mmcore_glee.outputs import Draws
from mmcore_glee.parity.settings import config_of, frames_of, multiple_of
from mmcore_glee.track_loss import tracked_objects
from mmcore_glee.vocabulary import known_lists
from mmcore_glee.vocabulary import names as vocabulary


def model_of(case: Case) -> Glee:
    """The model of a case, filled with the deterministic weights under the published names."""
    model = Glee(config_of(case))
    fill(model, model.published(), published_tensors(case))
    return model


def published_tensors(case: Case) -> dict[str, Tensor]:
    """The tensors of a case's key list; those computed at construction are left out."""
    tensors: dict[str, Tensor] = {}
    keys: Mapping[str, Sequence[Any]] = case.companion(case.data["keys_file"])
    for name, (shape, _, kind) in keys.items():
        if kind == "fill":
            tensors[name] = torch.from_numpy(np.ascontiguousarray(deterministic_array(name, tuple(shape))))
    for name, (_, _, kind) in keys.items():
        if kind.startswith("alias:"):
            tensors[name] = tensors[kind.removeprefix("alias:")]
    return tensors


def fill(module: torch.nn.Module, names: WeightMap, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load published tensors into a part of the model through its weight map.

    Args:
        module: the part.
        names: the weight map of the whole model.
        tensors: published names and values of the part.
        prefix: of the part's names in the whole model.

    Raises:
        WeightsError: the tensors are not exactly those of the part.
    """
    own = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    state, report = names.to_ours(tensors, own)
    if report.new:
        raise WeightsError(f"the case lacks {report.new}")
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})


class StoredDraws(Draws):
    """Replays the random numbers of a case.

    Args:
        tensors: of the case.
        prefix: before `draw.`, such as "step0.".
        skip: permutations that come before those of the prompt's samples.
        negatives: queries drawn in each frame for the track loss.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        prefix: str = "",
        skip: int = 0,
        negatives: Sequence[Sequence[int]] = (),
    ) -> None:
        self.negatives = torch.tensor(negatives, dtype=torch.int64)
        self.tensors = tensors
        self.prefix = f"{prefix}draw."
        self.skip = skip

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def match_points(self, sets: Sequence[str], num_images: int, num_points: int, device: torch.device) -> Tensor:
        """Stored points; an image without objects was never matched and has none."""
        nothing = torch.zeros(1, num_points, 2)
        stored = [[self._get(f"match.{name}.{i}", nothing)[0] for i in range(num_images)] for name in sets]
        return torch.stack([torch.stack(rows) for rows in stored]).to(device)

    def loss_points(
        self, sets: Sequence[str], num_pairs: int, num_oversampled: int, num_random: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Stored candidates and uniform points."""
        del num_pairs, num_oversampled, num_random
        first, second = ([self[f"points.{name}.{part}"] for name in sets] for part in ("oversampled", "random"))
        return torch.stack(first).to(device), torch.stack(second).to(device)

    def denoising(
        self, num_copies: int, num_classes: int, flip_probability: float, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stored noise; new labels are stored for the chosen copies only."""
        del num_classes
        flip = self["dn.label_probability"] < flip_probability
        labels = torch.zeros(num_copies, dtype=torch.int64)
        labels[flip] = self["dn.label_value"]
        return flip.to(device), labels.to(device), self["dn.box"].to(device)

    def prompt_keys(self, level: int, pixels: Tensor) -> Tensor:
        """Sort keys that give the stored permutations: one per image for a mean nobody uses, then one per level.

        Prompts of at most as many pixels as are sampled were not permuted and keep their order.
        """
        counts = pixels.sum(1).tolist()
        permuted = [i for i, count in enumerate(counts) if count > self.most_prompt_points]
        keys = torch.zeros(pixels.shape)
        for i, count in enumerate(counts):
            order = torch.arange(count)
            if i in permuted:
                order = self[f"randperm.{self.skip + (level + 1) * len(permuted) + permuted.index(i)}"].long()
            positions = pixels[i].nonzero()[:, 0]
            keys[i, positions[order]] = torch.linspace(1, 0.5, count) if count > 1 else torch.ones(count)
        return keys

    def track_negatives(self, num_frames: int, num_queries: int, count: int, device: torch.device) -> Tensor:
        """The stored queries of each frame."""
        assert (num_frames, count) == tuple(self.negatives.shape)
        return self.negatives.to(device)

    most_prompt_points = LITE.prompt_points

    def _get(self, name: str, default: Tensor) -> Tensor:
        return self.tensors.get(self.prefix + name, default)


def images_of(case: Case, suffix: str = "") -> list[Tensor]:
    """The pictures of a case, uint8 (3, height, width), in order."""
    pictures = case.data["images"]
    names = sorted(pictures, key=_place) if isinstance(pictures, dict) else []
    return [torch.from_numpy(deterministic_image(*pictures[name])).permute(2, 0, 1) for name in names if suffix in name]


def _place(name: str) -> tuple[int, ...]:
    """Numbers of an input: of the image, or of the clip and the frame."""
    return tuple(int(part) for part in name.split(".") if part.isdigit())


def training_batch(case: Case) -> GleeBatch:
    """The batch of a training case, with boxes and masks from its inputs."""
    if any(len(_place(name)) == 2 for name in case.data["images"]):
        return _clip_batch(case)
    images = images_of(case)
    padded = pad_images(images, multiple_of(case))
    size = (padded.shape[-2], padded.shape[-1])
    given, count = case.tensors, len(images)
    boxes = [relative_boxes(given[f"in.{i}.boxes_xyxy"], size) for i in range(count)]
    masks = [_masks(case, str(i), len(boxes[i]), image) for i, image in enumerate(images)]
    labels = [given.get(f"target.{i}.labels", given[f"in.{i}.classes"]) for i in range(count)]
    prompts = None
    if mode := case.data.get("prompt_mode"):
        chosen = [entry[2][0] for entry in case.data["other_draws"] if entry[1] == "sample"]
        boxes = [b[[k]] for b, k in zip(boxes, chosen, strict=True)]
        masks = [None if m is None else m[[k]] for m, k in zip(masks, chosen, strict=True)]
        prompts = _prompts(case, masks, size)
    flat = None if masks[0] is None else pad_masks(masks, size)
    return make_batch(
        case,
        padded,
        tuple((image.shape[1], image.shape[2]) for image in images),
        task=task_of(case),
        labels=labels,
        boxes=boxes,
        masks=flat,
        prompt_masks=prompts,
        prompt_mode=mode or "mask",
    )


def _clip_batch(case: Case) -> GleeBatch:
    """Clips, frame by frame; what is not seen in a frame, and with a prompt what is not prompted, is left out."""
    images, given = images_of(case), case.tensors
    padded = pad_images(images, multiple_of(case))
    size = (padded.shape[-2], padded.shape[-1])
    places = sorted(_place(name) for name in case.data["images"])
    num_frames = tuple(sum(clip == number for clip, _ in places) for number in sorted({clip for clip, _ in places}))
    if any(count != frames_of(case) for count in num_frames):
        raise NotRun(f"clips of {num_frames} frames; the published track loss would take {frames_of(case)} for a clip")
    ids = {place: given[f"in.{place[0]}.{place[1]}.ids"] for place in places}
    kept = {place: rows != -1 for place, rows in ids.items()}
    mode = case.data.get("prompt_mode")
    chosen = [entry[2][0] for entry in case.data["other_draws"] if entry[1] == "sample"] if mode else []
    for clip, row in enumerate(chosen):
        wanted = ids[clip, 0][kept[clip, 0]][row]
        for place in places:
            kept[place] &= (ids[place] == wanted) | torch.tensor(place[0] != clip)
    boxes, masks, labels, prompts = [], [], [], []
    for place, image in zip(places, images, strict=True):
        name = f"{place[0]}.{place[1]}"
        rows = kept[place]
        found = _masks(case, name, len(rows), image)
        boxes.append(relative_boxes(given[f"in.{name}.boxes_xyxy"], size)[rows])
        labels.append(given[f"in.{name}.classes"][rows])
        masks.append(None if found is None else found[rows])
        if mode and place[1] == 0:
            prompts.append(masks[-1])
    return make_batch(
        case,
        padded,
        tuple((image.shape[1], image.shape[2]) for image in images),
        task=task_of(case),
        labels=labels,
        boxes=boxes,
        masks=None if masks[0] is None else pad_masks(masks, size),
        prompt_masks=_prompts(case, prompts, size) if mode else None,
        prompt_mode=mode or "mask",
        track_ids=torch.cat([ids[place][kept[place]] for place in places]),
        num_frames=num_frames,
    )


def make_batch(
    case: Case,
    images: Tensor,
    image_sizes: tuple[tuple[int, int], ...],
    *,
    task: str,
    labels: Sequence[Tensor] = (),
    boxes: Sequence[Tensor] = (),
    masks: Tensor | None = None,
    **rest: Any,
) -> GleeBatch:
    """A batch with the words of a case; without objects for inference."""
    grounding = task in ("grounding", "rvos")
    ids, mask = words_of(case, grounding)
    num_objects = tuple(map(len, labels)) or (0,) * len(images)
    return GleeBatch(
        source=case.name,
        draws=(),
        normalisers={
            "objects": float(sum(num_objects)),
            "batches": 1.0,
            "text_tokens": 0.0 if grounding else float(mask.sum()),
            "tracked_objects": float(tracked_objects(num_objects, rest.get("num_frames") or ())),
        },
        images=images,
        image_sizes=image_sizes,
        original_sizes=rest.pop("original_sizes", image_sizes),
        image_ids=tuple(range(len(images))),
        num_objects=num_objects,
        labels=torch.cat([*labels, torch.zeros(0, dtype=torch.int64)]),
        boxes_cxcywh=torch.cat([*boxes, torch.zeros(0, 4)]),
        masks=masks,
        task=task,
        names=() if grounding else names_of(case, len(ids)),
        input_ids=ids,
        attention_mask=mask,
        expressions=tuple(f"expression {i}" for i in range(len(images))) if grounding else None,
        **rest,
    )


def task_of(case: Case) -> str:
    """The task of a case, which its vocabulary tells where it is not given."""
    if "task" in case.data:
        return case.data["task"]
    names, known = tuple(case.data["names"]), known_lists()
    found = [task for task in TABLE_OF_TASK if task in known and vocabulary(task) == names]
    if not found:
        raise NotRun("the case names no task, and its vocabulary is none of the known ones")
    return found[0]


def words_of(case: Case, grounding: bool) -> tuple[Tensor, Tensor]:
    """Stored token ids and mask."""
    prefix = "grounding_" if grounding and "grounding_input_ids" in case.tensors else ""
    return case.tensors[f"{prefix}input_ids"].long(), case.tensors[f"{prefix}attention_mask"].long()


def names_of(case: Case, count: int) -> tuple[str, ...]:
    """The vocabulary; tasks without a list ask for "object"."""
    names = case.data.get("names")
    return tuple(names) if names else ("object",) * count


def _masks(case: Case, place: str, count: int, image: Tensor) -> Tensor | None:
    stored = case.data.get("masks_rle")
    if stored is None:
        return None
    rles = stored.get(f"in.{place}.masks", [])
    if count == 0 or not rles:
        return torch.zeros(0, image.shape[1], image.shape[2], dtype=torch.bool)
    return torch.from_numpy(decode_all(rles)).bool()


def _prompts(case: Case, masks: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
    """The region each prompt marks: stored for points, the object itself otherwise."""
    prompts = torch.zeros(len(masks), *size, dtype=torch.uint8)
    for i, mask in enumerate(masks):
        stored = case.data["masks_rle"].get(f"prompt.{i}.template_mask")
        region = (
            mask[0] if stored is None and mask is not None else torch.from_numpy(decode_all(stored or []))[0].bool()
        )
        prompts[i, : region.shape[0], : region.shape[1]] = region
    return prompts


def mask_logits(embed: Tensor, features: Tensor) -> Tensor:
    """Whole masks, which only parity checks need."""
    return torch.einsum("bqc,bchw->bqhw", embed, features)


def close_all(
    report: Report,
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
    only: Iterable[str] | None = None,
    **limits: Any,
) -> None:
    """Compare every stored name; one that is missing on our side fails."""
    for name in expected if only is None else only:
        report.close(name, actual.get(name, float("nan")), expected[name], **limits)
