"""A trained VisPer-LM as a folder for others.

`hf`, with CLIP's vision transformer: a plain `LlavaForConditionalGeneration`, which transformers opens and servers
like vLLM read, nothing of ours installed; the task vectors stand behind every image (`mmcore.language.llava.folder`).
With a ConvNeXt the core writes a folder of our own format, which `mmcore.runs.opened.from_pretrained` opens.

`upstream`: published names (`weights`), and beside them the configuration and the tokenizer that the original loader
asks for.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmcore.language.conversation_templates import template
from mmcore.language.llava.folder import PlainLlava, generation_config, write_original_files
from mmcore.language.llava.layout import lacking
from torch import Tensor

from mmcore_visper.config import VisperConfig
from mmcore_visper.published_config import to_published

if TYPE_CHECKING:
    from mmcore.contract.run import FinishedRun

WITHOUT_ANSWERS = ("pt", "probe")
"""Stages after which nothing is exported unasked: instruction tuning follows the first, the other only adds probes."""

TRAINING_ONLY = (
    "model.special_",
    "image_",
    "depth_logit_scale",
    "seg_logit_scale",
    "gen_logit_scale",
    "da_v2_head.",
    "dav2_backbone.",
    "oneformer.",
)
"""Published names of predictors, teachers and rows of task tokens, which a plain LLaVA does not have."""


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
    if (part := lacking(config.language, config.tower, config.projector)) is not None:
        print(
            f"plain transformers has no LLaVA with this {part}; the folder is in mmcore's own format", file=sys.stderr
        )
        return None
    plain = PlainLlava(
        language=config.language,
        tower=config.tower,
        template=template(config.template),
        aspect=config.image_aspect,
        dropped=TRAINING_ONLY,
        token="<|visper_task_{}|>",
    )
    vectors = torch.cat([_words_after(state, config, tokenizer), task_rows(state, config)])
    return plain.write(state, tokenizer, folder, max_shard_bytes, vectors)


def _words_after(state: Mapping[str, Tensor], config: VisperConfig, tokenizer: Any) -> Tensor:
    """The rows of words that the model has stand behind every image already, for it came from such a folder."""
    ids = tokenizer(config.after_image_text, add_special_tokens=False)["input_ids"] if config.after_image_text else []
    return state["model.embed_tokens.weight"][ids].float()


def task_rows(state: Mapping[str, Tensor], config: VisperConfig) -> Tensor:
    """The constant vectors that follow every image.

    Args:
        state: published names and values.
        config: tells the order of tasks and how many vectors each gives.

    Returns:
        (task tokens, channels): of each task as many means over consecutive rows as it inserts tokens.
    """
    rows = [
        state[f"model.special_{task}_tokens"].float().unflatten(0, (count, -1)).mean(1)
        for task, count in config.task_tokens
    ]
    return torch.cat(rows) if rows else torch.empty(0, config.width)


def export_upstream_files(config: VisperConfig, tokenizer: Any, folder: Path) -> None:
    """What the original loader reads beside the weights: configuration, generation settings and tokenizer.

    The loader chooses its class by the folder's name: it has to contain `phi` for Phi-3, and `dsg` where the predictors
    are wanted.
    """
    generation = generation_config(config.language, template(config.template), tokenizer)
    write_original_files(to_published(config), generation, tokenizer, folder)


def after_training(run: "FinishedRun") -> None:
    """Export a run whose model answers questions, and say where it lies; a run never fails over it.

    Stages `pt` and `probe` and models with a ConvNeXt are left out: `mmcore export` writes them when asked.
    """
    from mmcore.runs.export_after import export_after, say

    config: VisperConfig = run.model.config  # type: ignore[assignment]
    name, precision = run.settings.stage.name, run.settings.stage.precision
    if name in WITHOUT_ANSWERS:
        say(f"not exported after stage {name}; `mmcore export {run.run_dir}` does it")
    elif (part := lacking(config.language, config.tower, config.projector)) is not None:
        say(
            f"not exported, plain transformers has no LLaVA with this {part};"
            f" `mmcore export {run.run_dir}` writes our own format"
        )
    else:
        export_after(run, "hf", "exported for plain transformers", "bf16" if precision == "bf16" else None)
