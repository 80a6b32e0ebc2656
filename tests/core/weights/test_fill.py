"""Values into skeletons: exact, tied weights once, frozen matrices kept as they are multiplied, the same results."""

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.weights.fill import LARGE_TABLE, Keeping, fill, filling, unfilled, widen
from mmcore.weights.skeleton import skeleton
from torch import Tensor, nn

BF16 = Keeping(torch.bfloat16)


class Words(nn.Module):
    """A word table of some size, two matrices of which one is trained, a norm, and a tied output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(LARGE_TABLE // 64, 64)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.norm = nn.LayerNorm(64)
        self.output = nn.Linear(64, len(self.words.weight), bias=False)
        self.output.weight = self.words.weight
        self.register_buffer("scale", torch.ones(64))
        self.requires_grad_(False)
        self.second.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        x = x + self.first(x) + self.second(x)
        return self.output(self.norm(x) * self.scale).float().logsumexp(-1).sum()


def published() -> dict[str, Tensor]:
    """A state whose values bfloat16 holds exactly, as a file in bfloat16 holds them."""
    torch.manual_seed(0)
    return {name: value.bfloat16() for name, value in Words().state_dict().items()}


def bare() -> Words:
    with skeleton():
        return Words()


def test_a_filled_skeleton_is_the_model_that_was_loaded() -> None:
    state = {name: value.float() for name, value in published().items()}
    loaded, filled = Words(), bare()
    loaded.load_state_dict(state)
    fill(filled, state)
    assert not unfilled(filled)
    assert filled.output.weight is filled.words.weight
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in filled.state_dict().items())
    assert [p.requires_grad for p in filled.parameters()] == [p.requires_grad for p in loaded.parameters()]


def test_values_are_copies() -> None:
    state = {name: value.float() for name, value in published().items()}
    model = bare()
    fill(model, state)
    with torch.no_grad():
        model.second.weight.zero_()
    assert state["second.weight"].any()


def test_frozen_matrices_keep_the_precision_of_their_file_and_nothing_else_does() -> None:
    model = bare()
    with filling(BF16):
        fill(model, published())
    kept = {name for name, value in model.state_dict().items() if value.dtype == torch.bfloat16}
    assert kept == {"words.weight", "output.weight", "first.weight", "first.bias"}


def test_a_value_that_half_precision_would_round_stays_as_it_is() -> None:
    state = published() | {"first.weight": torch.full((64, 64), 1 / 3)}
    model = bare()
    with filling(BF16):
        fill(model, state)
    assert model.first.weight.dtype == torch.float32
    assert model.first.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [True, False])
def test_results_and_gradients_are_the_same_bits(autocast: bool) -> None:
    ids = torch.arange(40).reshape(2, 20)
    results = []
    for keeping in (Keeping(), BF16):
        model = bare()
        with filling(keeping):
            fill(model, published())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(ids)
        loss.backward()
        results.append((loss, model.second.weight.grad, model.second.bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_widened_models_are_plain_float32_ones_again() -> None:
    model = bare()
    with filling(BF16):
        fill(model, published())
    widen(model)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert type(model.words) is nn.Embedding
    assert type(model.first) is nn.Linear
    assert torch.equal(model.first.weight, published()["first.weight"].float())


@pytest.mark.parametrize(
    ("state", "told"),
    [({"third.weight": torch.ones(2)}, "no tensor 'third.weight'"), ({"norm.bias": torch.ones(2)}, r"is \(2,\)")],
)
def test_what_is_not_the_models_is_refused(state: dict[str, Tensor], told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        fill(bare(), state)
