"""A trained GLaMM as the folder that the released `GLaMMForCausalLM.from_pretrained` reads.

Weights are written by the core under published names (`Glamm.export_tensors` says which and in what precision);
beside them stand here the configuration, the generation settings and the tokenizer's files for its slow class.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.language.llava.folder import write_original_files
from mmcore.language.tokenizer_files import write_json
from mmcore.vision.clip_vit import ClipTower

from mmcore_glamm.config import GlammConfig
from mmcore_glamm.tokens import ADDED, TokenIds

if TYPE_CHECKING:
    from mmcore.contract.run import FinishedRun

VERSION = "4.28.0.dev0"
"""Of transformers, as the published folders say."""


def published_config(config: GlammConfig, ids: TokenIds) -> dict[str, Any]:
    """The entries of a published `config.json` for this model."""
    language = {name: value for name, value in config.language.items() if name not in ("model_type", "rope_theta")}
    tower = config.tower
    assert isinstance(tower, ClipTower)
    return {
        "architectures": ["GLaMMForCausalLM"],
        "model_type": "llava",
        **{"hidden_act": "silu", "initializer_range": 0.02, "rope_scaling": None, **language},
        "max_length": language["max_position_embeddings"],
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "transformers_version": VERSION,
        **dict.fromkeys(("mm_vision_tower", "mm_vision_module", "vision_tower"), tower.name),
        "mm_hidden_size": tower.channels,
        "mm_projector_type": config.projector,
        "mm_use_im_start_end": True,
        "mm_use_im_patch_token": False,
        "mm_use_image_start_end": True,
        "mm_vision_select_layer": tower.select_layer,
        "mm_vision_select_feature": tower.select_feature,
        **dict.fromkeys(("num_level_reg_features", "num_reg_features"), config.region.num_levels),
        "out_dim": config.sam.out_channels,
        "train_mask_decoder": True,
        "with_region": True,
        "bbox_token_idx": ids.box,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": True,
    }


def generation_config(config: GlammConfig) -> dict[str, Any]:
    """`generation_config.json` as published."""
    kept = {name: config.language[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    length = config.language["max_position_embeddings"]
    return {
        "_from_model_config": True,
        **kept,
        "max_length": length,
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
