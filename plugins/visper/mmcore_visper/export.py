"""A trained VisPer-LM as a folder for others.

`hf`, with CLIP's vision transformer: a plain `LlavaForConditionalGeneration`, which transformers opens and servers
like vLLM read, nothing of ours installed. The task vectors stand in the embedding matrix (`llava_layout`), tokens stand
for them (`special_tokens`), and the chat template writes those after each image (`chat_template`). With a ConvNeXt the
core writes a folder of our own format, which `mmcore.runs.opened.from_pretrained` opens.

`upstream`: published names (`weights`), and beside them the configuration and the tokenizer that the original loader
asks for.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.errors import MmcoreError
from mmcore.language.conversation import template
from mmcore.vision.clip_images import CLIP_MEAN, CLIP_STD
from mmcore.vision.clip_vit import ClipTower
from mmcore.weights.files import write_safetensors
from torch import Tensor

from mmcore_visper.chat_template import fitting
from mmcore_visper.config import VisperConfig
from mmcore_visper.llava_layout import expressible, fold, model_config
from mmcore_visper.published_config import to_published
from mmcore_visper.special_tokens import Placement, place

if TYPE_CHECKING:
    from mmcore.runs.run import FinishedRun

END_TOKENS = ("<|end_of_text|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<|assistant|>")
"""Tokens that end an answer in the published generation settings: 128001 and 128009 of Llama 3; 32000, 32001 and 32007
of Phi-3."""
WITHOUT_ANSWERS = ("pt", "probe")
"""Stages after which nothing is exported unasked: instruction tuning follows the first, the other only adds probes."""

USE = """
## Use

```python
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER, backend="pil")
messages = [
    {"role": "user", "content": [{"type": "image", "path": "photo.jpg"}, {"type": "text", "text": "What is this?"}]}
]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
answer = model.generate(**inputs, max_new_tokens=128)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
```

`backend="pil"` resizes pictures as in training; transformers' default differs from it by up to one grey level.
"""


def export_hf(
    state: Mapping[str, Tensor],
    config: VisperConfig,
    tokenizer: Any,
    folder: Path,
    max_shard_bytes: int = 5_000_000_000,
) -> str | None:
    """Write a folder that plain transformers opens.

    Args:
        state: published names and values (`weights.upstream`).
        config: of the model.
        tokenizer: that it was trained with.
        folder: gets the files.
        max_shard_bytes: largest size of one file of weights.

    Returns:
        What a model card says about its use; None, with nothing written, when transformers has no such model.

    Raises:
        WeightsError: the tokenizer does not fit the model, or no chat template gives the token ids of training.
    """
    if not expressible(config):
        return None
    embeddings = state["model.embed_tokens.weight"]
    placement = place(tokenizer, sum(rows for _, rows in config.task_tokens), len(embeddings))
    tensors = fold(state, config, placement.task_ids, placement.rows)
    write_safetensors(tensors, folder, max_shard_bytes)
    write_json(folder / "config.json", model_config(config, placement.image_id, placement.rows, embeddings.dtype))
    write_json(folder / "generation_config.json", generation_config(config, placement.tokenizer, placement.suppressed))
    write_json(folder / "processor_config.json", processor_config(config, placement))
    write_json(folder / "preprocessor_config.json", image_processor_config(config))
    save_tokenizer(placement.tokenizer, folder)
    (folder / "chat_template.jinja").write_text(_chat_template(config, tokenizer, placement, folder))
    return USE


def _chat_template(config: VisperConfig, tokenizer: Any, placement: Placement, folder: Path) -> str:
    """The template, tried on the tokenizer as others will read it."""
    from transformers import AutoTokenizer

    written = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return fitting(template(config.template), tokenizer, written, placement.image, placement.tasks)


def generation_config(config: VisperConfig, tokenizer: Any, suppressed: tuple[int, ...] = ()) -> dict[str, Any]:
    """`generation_config.json`: greedy as in the published evaluations, and what ends an answer."""
    result: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_ids(config, tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    return result | ({"suppress_tokens": list(suppressed)} if suppressed else {})


def end_ids(config: VisperConfig, tokenizer: Any) -> list[int]:
    """Every id that ends an answer: the language model's, the tokenizer's and the template's."""
    vocabulary = tokenizer.get_vocab()
    names = [name for name in (*END_TOKENS, template(config.template).stop) if name in vocabulary]
    own = config.language.get("eos_token_id") or ()
    ids = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else (own,))}
    return sorted({int(i) for i in ids if i is not None} | {int(vocabulary[name]) for name in names})


def processor_config(config: VisperConfig, placement: Placement) -> dict[str, Any]:
    """`processor_config.json`: how many placeholders an image becomes."""
    assert isinstance(config.tower, ClipTower)
    return {
        "processor_class": "LlavaProcessor",
        "image_token": placement.image,
        "patch_size": config.tower.patch_size,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }


def image_processor_config(config: VisperConfig) -> dict[str, Any]:
    """`preprocessor_config.json`: how a picture is prepared, padded to a square where training did so."""
    side = config.image_size
    return {
        "image_processor_type": "LlavaImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_pad": config.image_aspect == "pad",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer's files, such that transformers 4 and 5 read `tokenizer.json` as it stands.

    A class of the family's own (`LlamaTokenizer`) would rebuild the rules for blanks that were set for training.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    if "extra_special_tokens" in settings:
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write_merges_as_text(folder / "tokenizer.json")


def _write_merges_as_text(path: Path) -> None:
    """`a b` instead of `[a, b]`: the original code's tokenizers (0.19) know no other form, and today's read both."""
    content = json.loads(path.read_text())
    merges = content["model"].get("merges", [])
    if merges and not any(isinstance(pair, str) or " " in "".join(pair) for pair in merges):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def export_upstream_files(config: VisperConfig, tokenizer: Any, folder: Path) -> None:
    """What the original loader reads beside the weights: configuration, generation settings and tokenizer.

    The loader chooses its class by the folder's name: it has to contain `phi` for Phi-3, and `dsg` where the predictors
    are wanted.
    """
    write_json(folder / "config.json", to_published(config))
    write_json(folder / "generation_config.json", generation_config(config, tokenizer))
    source = Path(str(tokenizer.name_or_path))
    files = [path for name in TOKENIZER_FILES if (path := source / name).is_file()]
    if not files or _has_grown(tokenizer, source):
        save_tokenizer(tokenizer, folder)
        return
    for path in files:
        shutil.copyfile(path, folder / path.name)


TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""Copied as they are when training added no token: Phi-3's slow class, which the original code asks for, reads the
first of them."""


def _has_grown(tokenizer: Any, source: Path) -> bool:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(source), local_files_only=True)) != len(tokenizer)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file as transformers writes them, two blanks deep and with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def after_training(run: "FinishedRun") -> None:
    """Export a run whose model answers questions, and say where it lies; a run never fails over it.

    Stages `pt` and `probe` and models with a ConvNeXt are left out: `mmcore export` writes them when asked.
    """
    config: VisperConfig = run.model.config  # type: ignore[assignment]
    name = run.settings.stage.name
    if name in WITHOUT_ANSWERS:
        _say(f"not exported after stage {name}; `mmcore export {run.run_dir}` does it")
    elif not expressible(config):
        _say(f"not exported, plain transformers has no such model; `mmcore export {run.run_dir}` writes our own format")
    else:
        try:
            _say(f"exported for plain transformers: {_export(run)}")
        except (MmcoreError, OSError) as error:
            _say(f"the run is complete, but its export failed: {error}\n  again: mmcore export {run.run_dir}")


def _export(run: "FinishedRun") -> Path:
    from mmcore.runs.export import export
    from mmcore.runs.opened import OpenedModel
    from mmcore.runs.settings import Family

    place = run.run_dir / "exports" / "hf"
    if place.exists() and any(place.iterdir()):
        place = place.with_name(f"hf-step-{run.step:08d}")
    if place.exists() and any(place.iterdir()):
        return place
    family = Family.open(run.settings.plugin)
    opened = OpenedModel(run.model, run.settings, family, run.run_dir, run.step, str(run.run_dir))
    export(opened, "hf", place, precision="bf16" if run.settings.stage.precision == "bf16" else None)
    return place


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
