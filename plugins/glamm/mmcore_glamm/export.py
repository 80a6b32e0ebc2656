"""A trained GLaMM as the folder that the released `GLaMMForCausalLM.from_pretrained` reads.

Weights are written by the core under published names (`Glamm.export_tensors` says which and in what precision);
beside them stand here the configuration, the generation settings and the tokenizer's files for its slow class.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.language.llava.folder import write_original_files
from mmcore.language.tokenizer_files import write_json

from mmcore_glamm.config import GlammConfig
from mmcore_glamm.tokens import ADDED, TokenIds

if TYPE_CHECKING:
    from mmcore.contract.run import FinishedRun

VERSION = "4.28.0.dev0"
"""Of transformers, as the published folders say."""


def published_config(config: GlammConfig, ids: TokenIds) -> dict[str, Any]:
    """The entries of a published `config.json` for this model."""
    language, tower = config.language, config.tower
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "architectures": ["GLaMMForCausalLM"],
        "model_type": "llava",
        **{name: language[name] for name in sizes},
        "num_key_value_heads": language.get("num_key_value_heads", language["num_attention_heads"]),
        "hidden_act": language.get("hidden_act", "silu"),
        "rms_norm_eps": language["rms_norm_eps"],
        "max_position_embeddings": language["max_position_embeddings"],
        "max_length": language["max_position_embeddings"],
        "rope_scaling": language.get("rope_scaling"),
        "initializer_range": language.get("initializer_range", 0.02),
        "tie_word_embeddings": False,
        "bos_token_id": language["bos_token_id"],
        "eos_token_id": language["eos_token_id"],
        "pad_token_id": language["pad_token_id"],
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "transformers_version": VERSION,
        "mm_vision_tower": tower.name,
        "mm_vision_module": tower.name,
        "vision_tower": tower.name,
        "mm_hidden_size": tower.channels,
        "mm_projector_type": config.projector,
        "mm_use_im_start_end": True,
        "mm_use_im_patch_token": False,
        "mm_use_image_start_end": True,
        "mm_vision_select_layer": getattr(tower, "select_layer", -2),
        "mm_vision_select_feature": getattr(tower, "select_feature", "patch"),
        "num_level_reg_features": config.region.num_levels,
        "num_reg_features": config.region.num_levels,
        "out_dim": config.sam.out_channels,
        "train_mask_decoder": True,
        "with_region": True,
        "bbox_token_idx": ids.box,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": True,
    }


def generation_config(config: GlammConfig) -> dict[str, Any]:
    """`generation_config.json` as published."""
    language = config.language
    return {
        "_from_model_config": True,
        "bos_token_id": language["bos_token_id"],
        "eos_token_id": language["eos_token_id"],
        "max_length": language["max_position_embeddings"],
        "pad_token_id": language["pad_token_id"],
        "transformers_version": VERSION,
        "use_cache": False,
    }


def write_files(config: GlammConfig, tokenizer: Any, folder: Path) -> None:
    """What the released loader reads beside the weights."""
    entries = published_config(config, TokenIds.of(tokenizer))
    write_original_files(entries, generation_config(config), tokenizer, folder)
    source = Path(str(tokenizer.name_or_path))
    model = source if source.is_file() else source / "tokenizer.model"
    if (folder / "tokenizer.model").exists() or not model.is_file():
        return
    # Training added tokens to a SentencePiece tokenizer: its slow class reads them from a list of their own.
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    write_json(folder / "added_tokens.json", {token: tokenizer.convert_tokens_to_ids(token) for token in ADDED})
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": tokenizer.pad_token})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "LlamaTokenizer", "legacy": True})


def after_training(run: "FinishedRun") -> None:
    """Write the merged folder of a run and say where it lies; a run never fails over it."""
    from mmcore.runs.export_after import export_after

    export_after(run, "upstream", "exported with adapters folded in, as the released code reads it")
