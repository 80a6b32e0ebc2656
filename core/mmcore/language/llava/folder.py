"""A trained model as a folder that plain transformers opens and servers like vLLM read, nothing of ours installed.

Constant vectors that a family puts after every image stand in the embedding matrix (`layout`), tokens stand for them
(`placement`), and the chat template writes those after each image (`mmcore.language.chat_template`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcore.language.chat_template import fitting
from mmcore.language.conversation import Template
from mmcore.language.generate import end_ids
from mmcore.language.llava.layout import fold, model_config, processor_config
from mmcore.language.llava.placement import Placement, place
from mmcore.language.tokenizer_files import copy_tokenizer, save_tokenizer, write_json
from mmcore.vision.clip_images import FILTERS
from mmcore.vision.towers import Tower, image_options
from mmcore.weights.files import write_safetensors

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainLlava:
    """What a folder says of its model; `layout.expressible` tells whether there can be one."""

    language: Mapping[str, Any]
    """Configuration of the language model."""
    tower: Tower
    template: Template
    """How conversations were written in training."""
    aspect: str
    """How pictures became square: padded (`pad`), cut (`square`), or their aspect ratio lost (`squash`)."""
    dropped: Collection[str] = ()
    """Beginnings of published names that a plain LLaVA has no use for."""
    token: str = "<|after_image_{}|>"
    """Name of the tokens of vectors after an image, where the tokenizer has none reserved."""

    def write(
        self, state: Mapping[str, Tensor], tokenizer: Any, folder: Path, max_shard_bytes: int, vectors: Tensor
    ) -> str:
        """Write the folder.

        Args:
            state: published names and values.
            tokenizer: that the model was trained with.
            folder: gets the files.
            max_shard_bytes: largest size of one file of weights.
            vectors: (count, channels), the constants that follow every image; none for plain LLaVA.

        Returns:
            What a model card says about its use.

        Raises:
            WeightsError: the tokenizer does not fit the model, or no chat template gives the token ids of training.
        """
        embeddings = state["model.embed_tokens.weight"]
        placed = place(tokenizer, len(vectors), len(embeddings), self.token)
        tensors = fold(state, vectors, placed.after_ids, rows=placed.rows, dropped=self.dropped)
        write_safetensors(tensors, folder, max_shard_bytes)
        config = model_config(self.language, self.tower, placed.image_id, placed.rows, embeddings.dtype)
        write_json(folder / "config.json", config)
        generation = generation_config(self.language, self.template, placed.tokenizer, placed.suppressed)
        write_json(folder / "generation_config.json", generation)
        write_json(folder / "processor_config.json", processor_config(self.tower, placed.image))
        write_json(folder / "preprocessor_config.json", image_processor_config(self.tower, self.aspect))
        save_tokenizer(placed.tokenizer, folder)
        (folder / "chat_template.jinja").write_text(self._chat_template(tokenizer, placed, folder))
        return USE

    def _chat_template(self, tokenizer: Any, placed: Placement, folder: Path) -> str:
        """The template, tried on the tokenizer as others will read it."""
        from transformers import AutoTokenizer

        written = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return fitting(self.template, tokenizer, written, placed.image, placed.after)


def write_original_files(
    config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Any, folder: Path
) -> None:
    """What an original loader reads beside the weights: configuration, generation settings and tokenizer."""
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation)
    copy_tokenizer(tokenizer, folder)


def write_language_files(language: Mapping[str, Any], template: Template, tokenizer: Any, folder: Path) -> None:
    """What plain transformers reads beside the weights of a language model: generation settings and tokenizer."""
    write_json(folder / "generation_config.json", generation_config(language, template, tokenizer))
    save_tokenizer(tokenizer, folder)


def generation_config(
    language: Mapping[str, Any], template: Template, tokenizer: Any, suppressed: tuple[int, ...] = ()
) -> dict[str, Any]:
    """`generation_config.json`: greedy as in the published evaluations, and what ends an answer."""
    result: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_ids(language, template, tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    return result | ({"suppress_tokens": list(suppressed)} if suppressed else {})


def image_processor_config(tower: Tower, aspect: str) -> dict[str, Any]:
    """`preprocessor_config.json`: how a picture is prepared, padded to a square where training did so."""
    side, options = tower.image_size, image_options(tower)
    square = {"height": side, "width": side}
    return {
        "image_processor_type": "LlavaImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_pad": aspect == "pad",
        "do_resize": True,
        "size": square if aspect == "squash" else {"shortest_edge": side},
        "resample": int(FILTERS[options["resample"]]),
        "do_center_crop": aspect != "squash",
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(options["mean"]),
        "image_std": list(options["std"]),
    }
