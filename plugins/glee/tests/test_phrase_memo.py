"""What a frozen text encoder said is said again, whatever else was asked and forgotten in between."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmcore_glee.config import TINY
from mmcore_glee.model import Glee
from mmcore_glee.text_encoder import PhraseMemo, build_clip, hidden_states
from mmcore_glee.tokenizer import tokenise
from torch import nn

LENGTHS = {f"phrase {i}": 2 + i % 5 for i in range(20)}


def ids_of(names: list[str], spare: int) -> torch.Tensor:
    """Ids that depend on the name alone, padded to the longest and `spare` more."""
    rows = torch.full((len(names), max(LENGTHS[name] for name in names) + spare), 7)
    for row, name in zip(rows, names, strict=True):
        own = random.Random(name)
        row[: LENGTHS[name]] = torch.tensor([own.randrange(10, 200) for _ in range(LENGTHS[name])])
    return rows


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_clip(TINY).eval().requires_grad_(False)


@pytest.mark.parametrize("capacity", [1, 4, 100])
def test_features_are_the_encoders_at_any_capacity_width_and_history(clip: torch.nn.Module, capacity: int) -> None:
    memo, draw = PhraseMemo(capacity), random.Random(0)
    for step in range(12):
        names = draw.choices(list(LENGTHS), k=draw.randint(1, 9))
        ids = ids_of(names, draw.randint(0, 2))
        with torch.inference_mode(step % 3 == 0), torch.no_grad():
            given, expected = memo.encode(clip, names, ids), hidden_states(clip, ids)
        assert given.shape == expected.shape
        for name, ours, encoded in zip(names, given, expected, strict=True):
            torch.testing.assert_close(ours[: LENGTHS[name]], encoded[: LENGTHS[name]], rtol=1e-5, atol=1e-5)


def test_a_known_phrase_is_not_encoded_again_and_the_oldest_are_forgotten(clip: torch.nn.Module) -> None:
    seen: list[int] = []
    handle = clip.register_forward_hook(lambda *given: seen.append(given[2].last_hidden_state.shape[0]))
    memo, names = PhraseMemo(6), list(LENGTHS)
    with torch.no_grad():
        for asked in (names[:4], names[:4], names[2:6], names[6:9], names[6:9], names[:1]):
            memo.encode(clip, asked, ids_of(asked, 0))
    handle.remove()
    assert seen == [4, 2, 3, 1]


def test_other_weights_are_noticed(clip: torch.nn.Module) -> None:
    memo, names = PhraseMemo(), list(LENGTHS)[:3]
    with torch.no_grad():
        before = memo.encode(clip, names, ids_of(names, 0))
        next(clip.parameters()).add_(1.0)
        after = memo.encode(clip, names, ids_of(names, 0))
        next(clip.parameters()).sub_(1.0)
    assert not torch.allclose(before, after)


IMAGE = np.zeros((64, 64, 3), np.uint8)
NAMES = ("cat", "dog", "red bus")


def whole(model: Glee) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode_text(model.prepare([IMAGE], names=NAMES)).classes.clone()


def trained(model: Glee, change: Callable[[nn.Parameter], None]) -> None:
    """A step that writes into every part of the encoder but the table of tokens."""
    model.encode_text(model.prepare([IMAGE], names=NAMES)).classes.square().sum().backward()
    with torch.no_grad():
        for name, parameter in model.text_encoder.named_parameters():
            if "embedding" not in name:
                change(parameter)
    model.zero_grad()


def in_place(parameter: nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.add_(parameter.grad.sign(), alpha=-0.05)


def unseen(parameter: nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.data.add_(parameter.grad.sign(), alpha=-0.05)


def loaded(model: Glee, **how: bool) -> None:
    state = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items() if "final" in name}
    model.load_state_dict({f"text_encoder.{name}": 2 * tensor for name, tensor in state.items()}, strict=False, **how)


CHANGES: dict[str, Callable[[Glee], None]] = {
    "a step": lambda model: trained(model, in_place),
    "a step of a sharded engine": lambda model: trained(model, unseen),
    "weights of some tensors": loaded,
    "weights put in place of others": lambda model: loaded(model, assign=True),
    "part of the encoder itself": lambda model: model.text_encoder.final_layer_norm.load_state_dict(
        {name: 2 * tensor for name, tensor in model.text_encoder.final_layer_norm.state_dict().items()}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("mode", ["evaluating", "through training"])
def test_what_weights_said_before_they_changed_is_forgotten(change: Callable[[Glee], None], mode: str) -> None:
    torch.manual_seed(0)
    model = Glee(TINY).eval()
    before = whole(model)
    assert torch.equal(whole(model), before)
    if mode == "through training":
        model.train()
    change(model)
    after = whole(model.eval())
    assert not torch.allclose(after, before)
    fresh = Glee(TINY).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(after, whole(fresh))


def test_texts_of_one_length_go_together_and_say_what_they_say_padded() -> None:
    torch.manual_seed(0)
    clip, names = build_clip(TINY), ("cat", "a red bus", "dog", "traffic light", "the man on the left of the tree")
    ids, mask = tokenise(names)
    widths: list[tuple[int, ...]] = []
    handle = clip.register_forward_pre_hook(
        lambda *given: widths.append(tuple(given[2]["input_ids"].shape)), with_kwargs=True
    )
    found = hidden_states(clip, ids)
    gradient = torch.autograd.grad(found[mask.bool()].square().sum(), list(clip.parameters()), allow_unused=True)
    handle.remove()
    assert sorted(widths) == [(1, 4), (1, 5), (1, 10), (2, 3)]
    padded = hidden_states(clip, ids, mask)
    torch.testing.assert_close(found[mask.bool()], padded[mask.bool()])
    expected = torch.autograd.grad(padded[mask.bool()].square().sum(), list(clip.parameters()), allow_unused=True)
    # Sums of single precision in another order; some of them are of what cancels out, so the largest is the measure.
    largest = max(float(one.abs().max()) for one in expected)
    for ours, theirs in zip(gradient, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * largest)
