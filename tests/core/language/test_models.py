"""Transformers models over padded and packed rows: the numbers of each sample alone, from the layers as published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.errors import MissingDataError, RecipeError, ShapeError, WeightsError
from mmcore.language import attention, masking, models
from mmcore.language.sequence import IGNORE, IMAGE, Encoded, Sequences
from mmcore.language.splice import lay_out
from mmcore.train.recompute import recompute_block
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

KINDS = ("llama", "phi3", "gemma2", "qwen2", "qwen3")
LAYOUTS: dict[str, dict[str, Any]] = {"right": {}, "left": {"padding_side": "left"}, "packed": {"pack_to": 40}}
EXPANSION = {IMAGE: (("image", 4), ("task", 2))}


def conversations(lengths: tuple[int, ...] = (9, 4, 14)) -> list[Encoded]:
    """Samples with an image each, everything after it learned."""
    rng = np.random.default_rng(0)
    samples = []
    for length in lengths:
        ids = rng.integers(3, 97, length)
        ids[2] = IMAGE
        samples.append(Encoded(ids, np.where(np.arange(length) < 3, IGNORE, ids)))
    return samples


def features(count: int = 3, width: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(count, 4, width, generator=generator).requires_grad_(),
        "task": torch.randn(count, 2, width, generator=generator),
    }


def published(model: models.LanguageModel) -> torch.nn.Module:
    """The same weights in transformers' own class with its own masks."""
    config = type(model.config)(**model.config.to_dict())
    plain = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    plain.load_state_dict(model.state_dict())
    return plain


def rows_of(states: Tensor, sequences: Sequences) -> list[Tensor]:
    return [states[place.row, place.start : place.start + place.length] for place in sequences.locations]


def loss_and_gradients(
    model: models.LanguageModel, sequences: Sequences, record: tuple[int, ...] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Text loss plus something of every recorded state, and all gradients."""
    given = features(len(sequences.locations))
    hidden = model(model.embed(sequences, given), sequences, record)
    loss = model.token_loss(hidden.last, sequences)
    for index, state in hidden.recorded.items():
        loss = loss + (index + 1) * state.tanh().square().where(sequences.valid[..., None], 0).sum()
    trained = [given["image"], *(p for p in model.parameters() if p.requires_grad)]
    return loss, list(torch.autograd.grad(loss, trained))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_hidden_states_of_each_sample_alone(tiny_model: Any, kind: str, layout: str) -> None:
    model = tiny_model(kind)
    plain = published(model)
    sequences = lay_out(conversations(), EXPANSION, **LAYOUTS[layout])
    embeds = model.embed(sequences, features())
    with torch.no_grad():
        hidden = model(embeds, sequences, record=range(4))
        assert sorted(hidden.recorded) == [0, 1, 2, 3]
        ours = {index: rows_of(state, sequences) for index, state in hidden.recorded.items()}
        for i, alone in enumerate(rows_of(embeds, sequences)):
            theirs = plain(inputs_embeds=alone[None], output_hidden_states=True)
            for index, state in enumerate(theirs.hidden_states):
                torch.testing.assert_close(ours[index][i], state[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model.lm_head(ours[3][i]), theirs.logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_long_sample_among_short_ones_is_packed_under_a_mask(tiny_model: Any, kind: str) -> None:
    model, samples = tiny_model(kind), conversations((40, 4, 5, 6, 4, 5))
    packed, padded = lay_out(samples, EXPANSION, pack_to=64), lay_out(samples, EXPANSION)
    assert masking.masking_of(packed).unpacked is None
    assert masking.masking_of(lay_out(conversations(), EXPANSION, pack_to=64)).unpacked is not None
    states = [rows_of(model(model.embed(plan, features(6)), plan).last, plan) for plan in (packed, padded)]
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones(tiny_model: Any, kind: str, kernel: str) -> None:
    model = tiny_model(kind, kernel)
    results = [
        loss_and_gradients(model, lay_out(conversations(), EXPANSION, **layout), (0, 1, 3))
        for layout in LAYOUTS.values()
    ]
    (loss, gradients), *others = results
    scale = max(float(gradient.abs().max()) for gradient in gradients)
    for other_loss, other_gradients in others:
        torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=0)
        for a, b in zip(other_gradients, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_published_padding_gives_transformers_values_at_padding_too(tiny_model: Any, kind: str) -> None:
    model = tiny_model(kind, sliding_window=64) if kind == "phi3" else tiny_model(kind)
    sequences = lay_out(conversations(), EXPANSION)
    embeds = model.embed(sequences, features())
    with torch.no_grad():
        ours = model(embeds, sequences, record=(1, 2), published_padding=True)
        theirs = published(model)(
            inputs_embeds=embeds, attention_mask=sequences.valid.long(), output_hidden_states=True
        )
    torch.testing.assert_close(ours.recorded[1], theirs.hidden_states[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.recorded[2], theirs.hidden_states[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.last, theirs.hidden_states[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpointing_changes_neither_loss_nor_gradients(tiny_model: Any, layout: str) -> None:
    sequences = lay_out(conversations(), EXPANSION, **LAYOUTS[layout])
    expected = loss_and_gradients(tiny_model("llama").train(), sequences, (1, 2, 3))
    model = tiny_model("llama").train()
    for block in model.layers:
        recompute_block(block)
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        assert model.embed_tokens(sequences.ids).requires_grad != frozen
        loss, gradients = loss_and_gradients(model, sequences, (1, 2, 3))
        torch.testing.assert_close(loss, expected[0])
        for a, b in zip(gradients, expected[1], strict=False):
            torch.testing.assert_close(a, b)
        assert len(gradients) == (1 if frozen else len(expected[1]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_asks_the_device_nothing(tiny_model: Any, kind: str, layout: str) -> None:
    model = tiny_model(kind).train()
    for block in model.layers:
        recompute_block(block)
    sequences = lay_out(conversations(), EXPANSION, **LAYOUTS[layout])
    with _NoQuestions():
        loss_and_gradients(model, sequences, (1, 2))


def test_only_wanted_hidden_states_are_kept(tiny_model: Any) -> None:
    model = tiny_model("llama")
    sequences = lay_out(conversations(), EXPANSION)
    assert list(model(model.embed(sequences, features()), sequences, record=(2,)).recorded) == [2]
    assert not any(layer._forward_hooks for layer in model.model.layers)
    with pytest.raises(RecipeError, match=r"no hidden state 4(.|\n)*0 to 3"):
        model(model.embed(sequences, features()), sequences, record=(4,))


def test_embeddings_of_another_plan_are_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(ShapeError, match=r"\(3, 4\) positions for a plan of \(3, 19\)"):
        model(torch.zeros(3, 4, 32), lay_out(conversations(), EXPANSION))


def test_the_variable_length_kernel_is_told_every_sample_and_window(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel needs a GPU; one that does the same stretch by stretch stands in."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda: _stretch_by_stretch)
    for kind in KINDS:
        for layout in LAYOUTS.values():
            sequences = lay_out(conversations(), EXPANSION, **layout)
            hidden = [
                model(model.embed(sequences, features()), sequences).last[sequences.valid]
                for model in (tiny_model(kind), tiny_model(kind, "varlen"))
            ]
            torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_losses_by_rounding_only(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, kind: str, kernel: str
) -> None:
    monkeypatch.setattr(attention, "varlen_kernel", lambda: _stretch_by_stretch)
    sequences = lay_out(conversations(), EXPANSION, pack_to=40)
    exact, _ = loss_and_gradients(tiny_model(kind), sequences)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(tiny_model(kind, kernel), sequences)
    assert loss.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)


def test_phi3_of_transformers_4_sees_one_position_more(shared: Path) -> None:
    folder = shared / "goldens/visper/phi3_sliding_window"
    case, stored = json.loads((folder / "case.json").read_text()), load_file(folder / "tensors.safetensors")
    from mmcore.parity import deterministic_array

    config = {"model_type": "phi3", "tie_word_embeddings": False, **case["config"]}
    model = models.build(models.modern_config(config)).eval()
    weights = {
        name: torch.from_numpy(deterministic_array(name, tuple(t.shape))) for name, t in model.state_dict().items()
    }
    models.fill(model, weights)
    ids = stored["input_ids"][0].numpy()
    samples = [Encoded(row, row) for row in (ids[:23], ids, ids[:40])]
    for layout in ({}, {"padding_side": "left"}, {"pack_to": 140}):
        sequences = lay_out(samples, {}, **layout)
        with torch.no_grad():
            logits = model.lm_head(model(model.embed(sequences, {}), sequences).last)
        for row in rows_of(logits, sequences):
            torch.testing.assert_close(row, stored["logits"][0, : len(row)], atol=2e-5, rtol=2e-4)


def test_configurations_of_transformers_4_are_brought_up_to_date_once() -> None:
    old = {"model_type": "phi3", "sliding_window": 2047, "transformers_version": "4.41.1"}
    assert models.modern_config(old)["sliding_window"] == 2048
    assert models.modern_config({**old, "transformers_version": "5.17.0"})["sliding_window"] == 2047
    assert models.modern_config({**old, "model_type": "qwen2"})["sliding_window"] == 2047
    assert models.modern_config({**old, "sliding_window": None})["sliding_window"] is None


def test_an_unknown_language_model_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'phi'(.|\n)*llama, phi3(.|\n)*did you mean 'phi3'"):
        models.build({"model_type": "phi"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_gives_the_published_logits(tiny_model: Any, kind: str, tmp_path: Path) -> None:
    plain = published(tiny_model(kind))
    plain.save_pretrained(tmp_path)
    model = models.read_pretrained(tmp_path).eval()
    assert model.tied == (kind == "gemma2")
    ids = torch.arange(3, 12)[None]
    sequences = lay_out([Encoded(ids[0].numpy(), ids[0].numpy())], {})
    with torch.no_grad():
        ours = model.lm_head(model(model.embed(sequences, {}), sequences).last)
        torch.testing.assert_close(ours, plain(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_folder_that_does_not_fit_says_what_is_wrong(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no config\.json"):
        models.read_pretrained(tmp_path)
    model = tiny_model("llama")
    entries = {**model.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    missing = {name: tensor for name, tensor in state.items() if "layers.1" not in name}
    save_file(missing, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"the checkpoint has no model\.layers\.1"):
        models.read_pretrained(tmp_path)
    save_file({**state, "model.norm.weight": torch.zeros(5)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.norm\.weight is \(5,\) in the checkpoint and \(32,\)"):
        models.read_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(WeightsError, match=r"cannot be read"):
        models.read_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_new_words_start_as_the_mean_of_the_old(tiny_model: Any, kind: str) -> None:
    model = tiny_model(kind)
    old = model.embed_tokens.weight.detach().clone()
    model.resize(99)
    assert model.tied == (kind == "gemma2")
    assert model.lm_head(torch.zeros(1, 32)).shape == (1, 99)
    torch.testing.assert_close(model.embed_tokens.weight[:97], old)
    torch.testing.assert_close(model.embed_tokens.weight[97:], old.mean(0).expand(2, -1))
    model.resize(90)
    torch.testing.assert_close(model.embed_tokens.weight, old[:90])


def test_a_model_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        model = models.build({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 50})
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {name.split(".")[0] for name in model.state_dict()} == {"model", "lm_head"}


def _stretch_by_stretch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    longest_q: int,
    longest_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> Tensor:
    """What torch.nn.attention.varlen.varlen_attn does, in a loop."""
    assert torch.equal(starts_q, starts_k)
    assert query.dtype == key.dtype == value.dtype
    assert longest_q == longest_k == int(starts_q.diff().max())
    assert starts_q.dtype == torch.int32
    outputs = []
    for start, end in zip(starts_q.tolist()[:-1], starts_q.tolist()[1:], strict=True):
        q, k, v = (part[start:end].transpose(0, 1) for part in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        left = window_size[0] if window_size[0] >= 0 else end - start
        mask = (distance >= -window_size[1]) & (distance <= left)
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1))
    return torch.cat(outputs)


class _NoQuestions(TorchDispatchMode):
    """Fails where an operation would have to wait for a GPU: a value read, or a result whose size depends on one."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert not name.startswith(self.FORBIDDEN), f"{name} waits for the device"
        masks = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
        assert not (name.startswith("index") and masks), f"{name} by a mask waits for the device"
        return func(*args, **(kwargs or {}))
