"""Generation with a cache: the words that the model alone, without cache or batch, would say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcore.errors import ShapeError, UsageError
from mmcore.language.generate import Generated, Sampling, Stop, generate
from mmcore.language.models import LanguageModel
from mmcore.language.sequence import IGNORE, IMAGE, Encoded, Sequences
from mmcore.language.splice import lay_out

EXPANSION = {IMAGE: (("image", 4),)}


def prompts(lengths: tuple[int, ...] = (9, 4, 14)) -> list[Encoded]:
    rng = np.random.default_rng(0)
    samples = [rng.integers(3, 97, length) for length in lengths]
    for ids in samples:
        ids[1] = IMAGE
    return [Encoded(ids, np.full(len(ids), IGNORE)) for ids in samples]


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 4, 32, generator=torch.Generator().manual_seed(0))


def answer(model: LanguageModel, sequences: Sequences, **options: Any) -> Generated:
    embeds = model.embed(sequences, {"image": images()})
    return generate(model, embeds, sequences, **{"max_new_tokens": 6, **options})


def alone(model: LanguageModel, i: int, steps: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Ids, logits and hidden states of one prompt, everything computed anew for every token."""
    sample, ids, logits = prompts()[i], list[int](), []
    hidden = torch.zeros(0)
    for _ in range(steps):
        whole = np.concatenate([sample.ids, np.array(ids, np.int64)])
        sequences = lay_out([Encoded(whole, whole)], EXPANSION)
        with torch.no_grad():
            hidden = model(model.embed(sequences, {"image": images()[i]}), sequences).last[0]
            logits.append(model.lm_head(hidden[-1]))
        ids.append(int(logits[-1].argmax()))
    return ids, torch.stack(logits), hidden


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "varlen"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "phi3", "gemma2", "qwen2"])
def test_batched_and_cached_answers_are_those_given_alone(tiny_model: Any, kind: str, side: Any, kernel: str) -> None:
    if kernel == "varlen":  # only its cached steps: reading packed prompts needs a GPU
        model = tiny_model(kind)
        model.attention = "varlen"
    else:
        model = tiny_model(kind, kernel)
    given = answer(model, lay_out(prompts(), EXPANSION, padding_side=side), keep_logits=True, keep_hidden=True)
    assert given.logits is not None
    assert given.hidden is not None
    for i in range(3):
        ids, logits, hidden = alone(tiny_model(kind), i, 6)
        assert given.ids[i] == ids
        torch.testing.assert_close(given.logits[i], logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(given.hidden[i], hidden, atol=1e-5, rtol=1e-5)
        expected = logits.softmax(-1).amax(-1).tolist()
        assert given.probabilities[i] == pytest.approx(expected, abs=1e-5)


def test_a_row_ends_with_its_end_id_and_the_others_go_on(tiny_model: Any) -> None:
    model, sequences = tiny_model("llama"), lay_out(prompts(), EXPANSION, padding_side="left")
    free = answer(model, sequences).ids
    ended = answer(model, sequences, stop=Stop(ids=(free[1][2],)), keep_hidden=True)
    assert ended.ids[1] == free[1][:3]
    assert ended.ids[0] == free[0]
    assert ended.hidden is not None
    assert len(ended.hidden[1]) == len(prompts()[1].ids) + 3 + 2


def test_generation_ends_when_every_row_has(tiny_model: Any) -> None:
    model, sequences = tiny_model("llama"), lay_out(prompts(), EXPANSION)
    free = answer(model, sequences).ids
    ended = answer(model, sequences, stop=Stop(ids=tuple(row[1] for row in free)), keep_logits=True)
    assert all(len(row) <= 2 for row in ended.ids)
    assert ended.logits is not None
    assert ended.logits.shape[1] <= 2


def test_stop_sequences_and_strings_end_a_row() -> None:
    stop = Stop(sequences=((5, 6),), strings=("END",), decode=lambda ids: "".join(map(chr, ids)))
    assert stop.reached([1, 5, 6])
    assert not stop.reached([5, 6, 1])
    assert not stop.reached([5])
    assert stop.reached([*b"the END"])
    assert not stop.reached([*b"the EN"])
    assert not stop.reached([*b"END of a much longer text"])
    assert not Stop().reached([1, 2])
    with pytest.raises(UsageError, match="decode"):
        Stop(strings=("END",))


def test_griffons_published_stopping(shared: Path) -> None:
    cases = json.loads((shared / "goldens/griffon/stopping/case.json").read_text())["cases"]
    assert cases
    for case in cases:
        stop = Stop(sequences=tuple(map(tuple, case["keyword_ids"])))
        assert stop.reached(case["ids"]) == case["stop"], case["text"]


def test_sampling_is_repeatable_and_greedy_where_one_word_has_it_all(tiny_model: Any) -> None:
    model, sequences = tiny_model("llama"), lay_out(prompts(), EXPANSION)
    greedy = answer(model, sequences).ids
    assert answer(model, sequences, sampling=Sampling(top_p=1e-6)).ids == greedy
    assert answer(model, sequences, sampling=Sampling(temperature=1e-4)).ids == greedy
    hot = [answer(model, sequences, sampling=Sampling(temperature=5.0, seed=seed)).ids for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_forbidden_words_are_never_taken(tiny_model: Any) -> None:
    model, sequences = tiny_model("llama"), lay_out(prompts(), EXPANSION)
    taken = {token for row in answer(model, sequences).ids for token in row}
    assert not taken & {token for row in answer(model, sequences, forbid=taken).ids for token in row}


def test_misuse_is_explained(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(ShapeError, match="pack_to"):
        answer(model, lay_out(prompts(), EXPANSION, pack_to=64))
    sequences = lay_out(prompts(), EXPANSION)
    with pytest.raises(UsageError, match="0 tokens"):
        answer(model, sequences, max_new_tokens=0)
    with pytest.raises(UsageError, match="eval"):
        answer(model.train(), sequences)
    for wrong in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(UsageError, match="cannot sample"):
            Sampling(**wrong)
