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
from mmcore.language.llava.folder import generation_config, write_language_files, write_original_files

from mmcore_griffon.config import GriffonConfig
from mmcore_griffon.published_config import to_published


def write_files(config: GriffonConfig, tokenizer: Any, folder: Path, format: str) -> None:
    """Configuration, generation settings and tokenizer of a format; the core writes the configuration of `hf`."""
    written = template(config.template)
    if format == "hf":
        write_language_files(config.language, written, tokenizer, folder)
        return
    generation = generation_config(config.language, written, tokenizer)
    write_original_files(to_published(config), generation, tokenizer, folder)
