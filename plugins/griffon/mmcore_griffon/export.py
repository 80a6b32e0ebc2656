"""A trained Griffon as a folder for others.

`hf`      published names, and beside them the configuration of the language model as plain transformers knows it:
          `AutoModelForCausalLM` opens the language model and leaves the rest aside; the whole is opened by our class
          (`mmcore.load`, `mmcore.runs.opened.from_pretrained`)
`upstream` published names, and beside them what the original loader asks for. It chooses its class by the folder's
          name, which has to contain `griffon` and one of `gemma`, `llama2` or `qwen2`
"""

from pathlib import Path
from typing import Any

from mmcore.language.conversation_templates import template
from mmcore.language.llava.folder import generation_config, write_original_files
from mmcore.language.tokenizer_files import save_tokenizer, write_json

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.published_config import to_published


def write_upstream_files(config: GriffonConfig, tokenizer: Any, folder: Path) -> None:
    """Configuration, generation settings and tokenizer, as the original loader reads them."""
    generation = generation_config(config.language, template(config.template), tokenizer)
    write_original_files(to_published(config), generation, tokenizer, folder)


def write_hf_files(config: GriffonConfig, tokenizer: Any, folder: Path) -> None:
    """Generation settings and tokenizer of the language model."""
    generation = generation_config(config.language, template(config.template), tokenizer)
    write_json(folder / "generation_config.json", generation)
    save_tokenizer(tokenizer, folder)
