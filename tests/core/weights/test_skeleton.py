"""Skeletons: the model's own constructors, names and buffers, without the memory of its weights."""

import torch
from mmcore.weights.skeleton import skeleton
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class Part(nn.Module):
    """A parameter of each making, and buffers that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.norm = nn.LayerNorm(4)
        self.words = nn.Embedding(16, 8)
        self.scale = nn.Parameter(torch.rand(3), requires_grad=False)
        self.output = nn.Linear(8, 16, bias=False)
        self.output.weight = self.words.weight
        self.register_buffer("places", torch.arange(6.0), persistent=False)
        self.register_buffer("room", torch.empty(2))


def test_a_skeleton_has_every_name_and_no_weight() -> None:
    with skeleton():
        bare = Part()
    whole = Part()
    assert {name: p.shape for name, p in bare.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert not bare.scale.requires_grad
    assert bare.output.weight is bare.words.weight
    assert torch.equal(bare.get_buffer("places"), torch.arange(6.0))
    assert not bare.get_buffer("room").is_meta


def test_nothing_stays_switched_on_afterwards() -> None:
    with skeleton():
        pass
    assert not nn.Linear(2, 2).weight.is_meta


def test_chosen_parameters_are_made_as_always() -> None:
    with skeleton() as registered:
        bare = Part()
    place = next(i for i, parameter in enumerate(registered) if parameter is bare.norm.weight)
    with skeleton(real=frozenset({place})):
        mixed = Part()
    assert torch.equal(mixed.norm.weight, torch.ones(4))
    assert sum(not parameter.is_meta for parameter in mixed.parameters()) == 1


def test_initialisers_do_nothing_on_meta_and_everything_to_what_is_real():
    with skeleton(frozenset({1})):
        torch.manual_seed(0)
        layer = nn.Linear(3, 4)
        assert nn.init.normal_(layer.weight) is layer.weight
        nn.init.constant_(layer.bias, 2.0)
        assert layer.weight.zero_() is layer.weight
    assert layer.weight.is_meta
    assert layer.bias.tolist() == [2.0] * 4


def test_what_transformers_fills_while_it_builds_is_not_traced(monkeypatch):
    traced = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *args, **kwargs: traced.append(self.shape) or self)
    with skeleton():
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=32, intermediate_size=4, num_hidden_layers=1))
    assert not traced
    assert all(parameter.is_meta for parameter in model.parameters())
