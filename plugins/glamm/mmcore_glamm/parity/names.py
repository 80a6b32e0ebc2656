"""Key lists of published files, and adapters folded into what is exported."""

import torch
from mmcore.contract.recipe import Lora
from mmcore.language.llava.checkpoints import merged as folded
from mmcore.language.llava.names import TOWER
from mmcore.parity import Case, Report
from mmcore.train.lora import add_lora, fold
from mmcore.vision.sam.names import sam_rules
from mmcore.weights.maps import WeightMap
from mmcore.weights.skeleton import skeleton
from torch import Tensor

from mmcore_glamm import weights
from mmcore_glamm.config import B7, GlammConfig
from mmcore_glamm.model import Glamm
from mmcore_glamm.parity.common import built, config_of, deterministic, limits, published_names

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64, "float16": torch.float16}


def keys(case: Case, report: Report) -> None:
    """Every published tensor fills something or is left out on purpose; every one of them can be produced."""
    stored = {name: (tuple(shape), DTYPES[dtype]) for name, (shape, dtype) in _listed(case).items()}
    tensors = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in stored.items()}
    if (case.folder / "hf_names.json").exists():
        _sam(case, report, tensors)
        return
    adapted = any(".lora_" in name for name in tensors)
    model = _model(B7, tensors if adapted else {})
    if adapted:
        state = {ours: tuple(tensor.shape) for ours, tensor in model.state_dict().items()}
        names = published_names(model)
        computed = {n: v for n, v in stored.items() if n.endswith((".inv_freq", ".position_ids"))}
        made = {theirs: state[ours] for ours, theirs in names.items()}
        report.equal("produced: names and shapes", made, {n: s for n, (s, _) in stored.items() if n not in computed})
        plain = _model(B7, {})
        folded = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
        _consumed(report, plain, folded, set(computed))
        return
    _consumed(report, model, tensors, {name for name in tensors if name.endswith(".inv_freq")})
    whole = model.published().to_published(model.state_dict())
    made = weights.as_published(whole, B7, torch.bfloat16)
    report.equal("produced: names", sorted(made), sorted(stored))
    for name, tensor in made.items():
        shape, dtype = stored[name]
        if name.endswith(".inv_freq"):  # the case says that their type is not verified; the whole size below shows it
            dtype = tensor.dtype
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            report.equal(f"produced: {name}", [list(tensor.shape), str(tensor.dtype)], [list(shape), str(dtype)])
    if "total_bytes" in case.data:
        size = sum(tensor.numel() * tensor.element_size() for tensor in made.values())
        report.equal("bytes", size, case.data["total_bytes"])


def _listed(case: Case) -> dict:
    return case.companion("keys.json")


def _model(config: GlammConfig, tensors: dict[str, Tensor]) -> Glamm:
    """The model without values, with adapters where a list has some."""
    with skeleton():
        model = Glamm(config)
        targets = sorted({name.rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name})
        if targets:
            rank = next(len(tensor) for name, tensor in tensors.items() if ".lora_A" in name)
            add_lora(model, Lora(rank=rank, targets=tuple(f"language.{name}" for name in targets)))
    return model


def _consumed(report: Report, model: Glamm, tensors: dict[str, Tensor], left: set[str]) -> None:
    state, told = model.published_parts(tensors).to_ours(tensors, model.state_dict())
    report.equal("consumed: left out", sorted(told.ignored), sorted(left))
    report.equal("consumed: filled", len(state), len(tensors) - len(left))
    tower = any(name.startswith(TOWER) for name in tensors)
    lacking = sorted(name for name in model.state_dict() if name not in state)
    report.equal("what the file lacks", [n for n in lacking if tower or not n.startswith("tower.")], [])


def _sam(case: Case, report: Report, tensors: dict[str, Tensor]) -> None:
    """SAM's own file, and how transformers calls the parts that we took from it."""
    model = _model(B7, {})
    state, told = model.PARTS["sam"].map(model.state_dict()).to_ours(tensors, model.state_dict())
    report.equal("consumed: left out", told.ignored, [])
    report.equal("consumed: filled", sorted(state), sorted(n for n in model.state_dict() if n.startswith("sam.")))
    rules = WeightMap(rules=tuple(sam_rules()))
    made = rules.to_published({name: tensor for name, tensor in model.state_dict().items() if name.startswith("sam.")})
    report.equal(
        "produced: names and shapes",
        {name: list(tensor.shape) for name, tensor in made.items()},
        {name: list(tensor.shape) for name, tensor in tensors.items()},
    )
    parts = ("sam.prompt_encoder.", "sam.mask_decoder.")
    ours = {name: tensor for name, tensor in state.items() if name.startswith(parts)}
    found = {next(iter(rules.to_published({name: ours[name]}))): name.removeprefix("sam.") for name in ours}
    expected = {theirs: name for theirs, name in case.companion("hf_names.json").items() if theirs in found}
    report.equal("transformers' names of prompt encoder and decoder", found, expected)


def merge(case: Case, report: Report) -> None:
    """A training checkpoint with its adapters folded in, and a run of ours that ends the same way."""
    listed = case.companion("train_keys.json")
    tensors = {name: deterministic(name, shape) for name, (shape, dtype) in listed.items() if dtype != "int64"}
    merged = folded(tensors, float(case.data["lora"]["alpha"]))
    config = config_of(case, listed)
    exported = weights.as_published(merged, config, None)
    report.equal("keys.json", sorted(exported), sorted(case.companion("keys.json")))
    for name in case.outputs():
        report.close(name, merged[name.removeprefix("out.")], case.tensors[name], **limits(case))
    model = built(case, keys=listed).model
    lora = Lora(rank=case.data["lora"]["r"], alpha=float(case.data["lora"]["alpha"]))
    ours = Glamm(config).published().to_published(fold(model.state_dict(), lora))
    for name in case.outputs():
        report.close(f"our run: {name}", ours[name.removeprefix("out.")], case.tensors[name], **limits(case))


KINDS = {"keys": keys, "merge": merge}
