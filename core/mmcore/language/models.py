"""A transformers language model that reads spliced embeddings, and its output layer.

`LanguageModel` holds the published modules under their published names (`model.*`, `lm_head.*`) and patches nothing:
which position sees which travels as a keyword argument to our attention function (`mmcore.language.attention`), and
hidden states are picked up by ordinary forward hooks, only those that are wanted.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from packaging.version import InvalidVersion, Version
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from mmcore.errors import MissingDataError, RecipeError, ShapeError, WeightsError, suggest
from mmcore.language import splice
from mmcore.language.attention import NAME
from mmcore.language.cross_entropy import token_loss
from mmcore.language.masking import Kernel, Masking, masking_of
from mmcore.language.sequence import Sequences
from mmcore.weights.files import read_tensors

KINDS = ("llama", "phi3", "gemma2", "qwen2", "qwen3")
"""Values of `model_type` that are known to pass keyword arguments on to their attention."""


class Hidden(NamedTuple):
    """What a forward pass leaves."""

    last: Float[Tensor, "rows length width"]
    """After the last norm: what the output layer reads."""
    recorded: dict[int, Float[Tensor, "rows length width"]]
    """Index -> hidden state, numbered as in transformers: 0 the embeddings, i the output of layer i, and the number
    of layers means `last`."""


class OutputLayer(nn.Linear):
    """Hidden states to logits, or with a plan to the sum of the text loss.

    Both are calls of the module, so that an engine which gathers parameters around calls (ZeRO-3) has them in time.
    """

    softcap: float | None = None
    takes_half = True
    """`mmcore.weights.fill` may keep the weight in half precision while it is frozen."""

    def forward(self, hidden: Tensor, sequences: Sequences | None = None) -> Tensor:  # type: ignore[override]
        """Logits (..., words), squeezed where the model does that; with `sequences` the summed loss of its targets."""
        weight = self.weight
        if not torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(hidden.dtype)
        if sequences is not None:
            return token_loss(hidden, weight, sequences.supervised, sequences.targets, softcap=self.softcap)
        logits = linear(hidden, weight)
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap


class LanguageModel(nn.Module):
    """Words and features in, hidden states out.

    Args:
        config: of one of `KINDS`, in today's meaning (see `modern_config`).
        attention: the kernel, see `mmcore.language.masking.masking_of`.
    """

    def __init__(self, config: PreTrainedConfig, attention: Kernel = "sdpa") -> None:
        super().__init__()
        causal = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=NAME, trust_remote_code=False
        )
        self.config = causal.config
        self.attention: Kernel = attention
        self.model = causal.model
        self.lm_head = _output_layer(causal.lm_head, getattr(self.config, "final_logit_softcapping", None))
        self.embed_scale = float(self.config.hidden_size) ** 0.5 if self.config.model_type == "gemma2" else None

    @property
    def embed_tokens(self) -> nn.Embedding:
        """Word embeddings; ids -> (..., width), already scaled where the model does that."""
        return self.model.embed_tokens

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def tied(self) -> bool:
        """Whether the output layer is the word embedding."""
        return self.lm_head.weight is self.embed_tokens.weight

    def embed(self, sequences: Sequences, features: Mapping[str, Tensor]) -> Float[Tensor, "rows length width"]:
        """Embeddings of a plan; features are scaled like words where the published models did so (Gemma)."""
        return splice.embed(sequences, self.embed_tokens, features, scale=self.embed_scale)

    def forward(
        self,
        embeds: Float[Tensor, "rows length width"],
        sequences: Sequences,
        record: Iterable[int] = (),
        *,
        published_padding: bool = False,
    ) -> Hidden:
        """Run over padded or packed rows.

        Args:
            embeds: from `embed`.
            sequences: the same plan.
            record: hidden states to keep, numbered as in `Hidden.recorded`.
            published_padding: padding on the right sees the words only, as in the published masks; without it what
                stands at padding is finite and otherwise unspecified.

        Raises:
            ShapeError: embeddings and plan do not fit together.
            RecipeError: a hidden state is asked for that does not exist.
        """
        if embeds.shape[:2] != sequences.shape:
            raise ShapeError(f"embeddings of {tuple(embeds.shape[:2])} positions for a plan of {sequences.shape}")
        masking = masking_of(sequences, kernel=self.attention, published_padding=published_padding)
        wanted = self._check_record(record)
        with _recording(self.model, wanted) as recorded:
            last = self.run(embeds, sequences.positions, masking)
        recorded |= {0: embeds} if 0 in wanted else {}
        recorded |= {self.num_layers: last} if self.num_layers in wanted else {}
        return Hidden(last, recorded)

    def run(
        self,
        embeds: Float[Tensor, "rows queries width"],
        positions: Tensor,
        masking: Masking,
        cache: Any = None,
    ) -> Float[Tensor, "rows queries width"]:
        """One pass of the layers under a given masking, filling a transformers cache if there is one."""
        output = self.model(
            inputs_embeds=embeds,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            masking=masking,
        )
        return output.last_hidden_state

    def token_loss(self, last: Float[Tensor, "rows length width"], sequences: Sequences) -> Float[Tensor, ""]:
        """Sum of -log p over the learned tokens, float32."""
        return self.lm_head(last, sequences)

    def losses_by_row(
        self, last: Float[Tensor, "rows length width"], sequences: Sequences
    ) -> list[tuple[float, float]]:
        """Of each row the sum of -log p over its learned tokens, and their number; for evaluation."""
        logits = self.lm_head(last.flatten(0, 1).index_select(0, sequences.supervised)).float()
        each = cross_entropy(logits, sequences.targets, reduction="none")
        rows = sequences.supervised // sequences.shape[1]
        both = each.new_zeros(2, len(last)).index_add(1, rows, torch.stack([each, torch.ones_like(each)]))
        return [(loss, count) for loss, count in both.T.tolist()]

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers in order, for `Model.checkpoint_blocks`."""
        return list(self.model.get_submodule("layers").children())

    @torch.no_grad()
    def resize(self, words: int) -> None:
        """Another vocabulary size; new rows are the mean of the old ones, as LLaVA's scripts make them."""
        tied, old = self.tied, self.embed_tokens.num_embeddings
        self.embed_tokens.weight = _resized(self.embed_tokens.weight, words)
        self.embed_tokens.num_embeddings = words
        self.lm_head.weight = self.embed_tokens.weight if tied else _resized(self.lm_head.weight, words)
        self.lm_head.out_features = words
        self.config.vocab_size = self.model.vocab_size = words
        padding = self.embed_tokens.padding_idx
        if words < old and padding is not None and padding >= words:
            self.embed_tokens.padding_idx = None

    def _check_record(self, record: Iterable[int]) -> frozenset[int]:
        wanted = frozenset(record)
        if wrong := [index for index in wanted if not 0 <= index <= self.num_layers]:
            raise RecipeError(
                f"the language model has no hidden state {min(wrong)}",
                known=f"0 to {self.num_layers}",
                do="count from 0",
            )
        return wanted


def build(config: Mapping[str, Any] | PreTrainedConfig, attention: Kernel = "sdpa") -> LanguageModel:
    """A language model with fresh weights, float32, on the default device (also "meta").

    Args:
        config: a transformers text configuration, with `model_type`.
        attention: the kernel.

    Raises:
        RecipeError: the model type is not one of `KINDS`, or an entry is refused.
    """
    return LanguageModel(config if isinstance(config, PreTrainedConfig) else make_config(config), attention)


def make_config(entries: Mapping[str, Any]) -> PreTrainedConfig:
    """Configuration entries as transformers' object; old spellings (`rope_theta`) are understood.

    Raises:
        RecipeError: the model type is not one of `KINDS`, or an entry is refused.
    """
    kind = str(entries.get("model_type"))
    if kind not in KINDS:
        raise RecipeError(
            f"no language model of type {kind!r}",
            where="model_type of the language configuration",
            known=KINDS,
            do=suggest(kind, KINDS, "choose one of these"),
        )
    rest = {name: value for name, value in entries.items() if name not in ("model_type", "transformers_version")}
    try:
        return AutoConfig.for_model(kind, **_plain(rest))
    except (TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"transformers refuses this language configuration: {error}", where=kind) from error


def _plain(value: Any) -> Any:
    """A copy for transformers, which writes into nested entries and wants lists where recipes hold tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def modern_config(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A published text configuration with the meaning its numbers have today.

    With `sliding_window` W, Phi3 of transformers 4 let a query see itself and W positions before it, today's itself and
    W - 1. So a Phi3 configuration of version 4 gets W + 1; others stay as they are.
    """
    result = dict(entries)
    window = result.get("sliding_window")
    if result.get("model_type") == "phi3" and window is not None and _before_5(result.get("transformers_version")):
        result["sliding_window"] = window + 1
        result.pop("transformers_version", None)
    return result


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of a published folder, of a LLaVA its language model, through `modern_config`.

    Raises:
        MissingDataError: there is none.
        WeightsError: it is no JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise MissingDataError("no config.json here", where=folder, do="give the folder of a published language model")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError("the configuration cannot be read", where=path) from error
    if not isinstance(entries, dict):
        raise WeightsError("the configuration is no object", where=path)
    return modern_config(language_part(entries))


def language_part(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `config.json`, what describes the language model: all of it, or the part of transformers' LLaVA."""
    part = entries.get("text_config")
    if entries.get("model_type") != "llava" or not isinstance(part, Mapping):
        return dict(entries)
    return {"model_type": "llama", "transformers_version": entries.get("transformers_version"), **part}


def read_pretrained(folder: str | Path, attention: Kernel = "sdpa") -> LanguageModel:
    """A language model with the weights of a published folder (`config.json` and safetensors or .bin files).

    Raises:
        MissingDataError: a file is missing.
        RecipeError: the folder holds another kind of model.
        WeightsError: the weights do not fit the configuration.
    """
    model = build(read_config(folder), attention)
    fill(model, read_tensors(folder), where=folder)
    return model


def fill(model: LanguageModel, tensors: Mapping[str, Tensor], *, where: object = None) -> None:
    """Put published tensors (`model.*`, `lm_head.*`) into a language model; a tied output layer may be missing.

    Raises:
        WeightsError: names or shapes do not fit.
    """
    own = model.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    embedding, output = "model.embed_tokens.weight", "lm_head.weight"
    if embedding in given and (model.tied or output not in given) and getattr(model.config, "tie_word_embeddings", 0):
        given[output] = given[embedding]
    if wrong := sorted(own.keys() ^ given.keys()):
        sides = "the checkpoint" if wrong[0] in own else "the model"
        raise WeightsError(f"{sides} has no {wrong[0]}", where=where, known=f"{len(wrong)} names differ in all")
    if shapes := [name for name in own if own[name].shape != given[name].shape]:
        name = shapes[0]
        raise WeightsError(
            f"{name} is {tuple(given[name].shape)} in the checkpoint and {tuple(own[name].shape)} in the model",
            where=where,
        )
    model.load_state_dict(given)


@contextmanager
def _recording(model: nn.Module, wanted: frozenset[int]) -> Generator[dict[int, Tensor], None, None]:
    """The outputs of the wanted layers, as long as the block lasts; the first and the last state are not layers'."""
    layers, recorded = list(model.get_submodule("layers").children()), dict[int, Tensor]()

    def keep(index: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            recorded[index] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[i - 1].register_forward_hook(keep(i)) for i in sorted(wanted) if 0 < i < len(layers)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _output_layer(linear: nn.Linear, softcap: float | None) -> OutputLayer:
    """The same parameters in a layer that can also say the loss."""
    layer = OutputLayer(linear.in_features, linear.out_features, bias=False, device="meta")
    layer.weight = linear.weight
    layer.softcap = softcap
    return layer


def _resized(weight: Tensor, words: int) -> nn.Parameter:
    extra = weight.float().mean(0, keepdim=True).to(weight.dtype).expand(max(0, words - len(weight)), -1)
    return nn.Parameter(torch.cat([weight[:words], extra]), requires_grad=weight.requires_grad)


def _before_5(version: object) -> bool:
    """Whether transformers of this version wrote the configuration; published ones without a version are old."""
    try:
        return Version(str(version)) < Version("5.0.dev0") if version is not None else True
    except InvalidVersion:
        return True


def plain_config(entries: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` of the language model alone, as plain transformers opens it; raises as `make_config`."""
    name = f"{str(entries['model_type']).capitalize()}ForCausalLM"  # of every kind in `KINDS`
    return make_config(entries).to_diff_dict() | {"architectures": [name]}
