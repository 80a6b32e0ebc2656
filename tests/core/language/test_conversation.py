"""Conversations as text: every published prompt, and what a user's data can get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmcore.errors import DataError, RecipeError
from mmcore.language.conversation import Turn, normalise, to_front
from mmcore.language.conversation_templates import ALIASES, TEMPLATES, template

GRIFFON = {"llava_llama_3": "llama_3_turns"}
"""Griffon calls another template by VisPer-LM's name."""


def said(*turns: str, first: str = "human") -> list[dict[str, str]]:
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(turns)]


def test_visper_prompts_are_the_published_ones(shared: Path) -> None:
    case = json.loads((shared / "goldens/visper/data_conversations/case.json").read_text())
    for name, entries in case["conversations"].items():
        for key, entry in entries.items():
            if isinstance(entry, dict):
                turns = normalise(entry["turns"], has_image=entry["has_image"])
                assert template(name).render(turns) == entry["prompt"], (name, key)


@pytest.mark.parametrize("tokenizer", ["gemma", "llama", "llama3", "llama_legacy", "qwen2", "qwen25"])
def test_griffon_prompts_are_the_published_ones(shared: Path, tokenizer: str) -> None:
    case = json.loads((shared / f"goldens/griffon/conv_{tokenizer}/case.json").read_text())
    for sample in case["samples"]:
        style = template(GRIFFON.get(sample["version"], sample["version"]))
        entries = [{"from": role, "value": text} for role, text in sample["turns"]]
        turns = normalise(entries, has_image=sample["has_image"], image=style.image)
        if sample["conversation_prompt"] is not None:
            assert style.render(turns).replace("<region>", "<image>") == sample["conversation_prompt"], sample
        asked = style.render((turns[0], Turn("assistant", "")))
        assert asked.replace("<region>", "<image>") == sample["generation_prompt"], sample


def test_glamm_prompts_are_the_published_ones(shared: Path) -> None:
    case = json.loads((shared / "goldens/glamm/data_main_caption/case.json").read_text())
    stored = case["samples"]["LLaVaInstruct"]["samples"][0]["conversation"]
    turns = (
        Turn("user", "<image>\nWhat is on the table?"),
        Turn("assistant", "There are three cups and a plate."),
        Turn("user", "And the old pier?"),
        Turn("assistant", "It is near the boat."),
    )
    assert template("llava_v1").render(turns) == stored


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_an_open_turn_is_the_beginning_of_the_answered_one(name: str) -> None:
    style = template(name)
    question = Turn("user", "<image>\nWhy?")
    opened, whole = (style.render((question, Turn("assistant", text))) for text in ("", "Because."))
    assert whole.startswith(opened)
    assert whole.endswith("Because." + style.assistant.after)


def test_other_names_of_a_template_mean_the_same() -> None:
    for other, name in ALIASES.items():
        assert template(other) is TEMPLATES[name]


def test_an_unknown_template_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        template("llava_lama_3")
    assert "there is no conversation template 'llava_lama_3'" in str(caught.value)
    assert "did you mean 'llava_llama_3'?" in str(caught.value)
    assert "gemma_instruct" in str(caught.value)


def test_a_leading_answer_is_dropped_unless_the_template_keeps_it() -> None:
    entries = said("Hello.", "Where?", "Here.", first="gpt")
    assert [turn.role for turn in normalise(entries)] == ["user", "assistant"]
    assert [turn.role for turn in normalise(entries, keep_first=True)] == ["assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What? <image>", "<image>\nWhat?"),
        ("<image>", "<image>"),
        (" a <image>b<image> ", "<image>\na b"),
        ("no picture ", "no picture "),
    ],
)
def test_the_marker_moves_to_the_front_of_its_turn(text: str, expected: str) -> None:
    assert to_front(text) == expected


def test_a_template_may_wrap_its_marker() -> None:
    turns = normalise(said("Look <image>", "ok"), image="<im_start><image><im_end>")
    assert turns[0].text == "<im_start><image><im_end>\nLook"


def test_without_an_image_the_marker_is_only_text() -> None:
    assert normalise(said("Write <image> in HTML ", "ok"), has_image=False)[0].text == "Write <image> in HTML "


def test_no_human_turn_is_an_error_that_says_so() -> None:
    for entries in ([], said("Hello.", first="gpt")):
        with pytest.raises(DataError, match="the conversation has no human turn"):
            normalise(entries)


def test_roles_that_do_not_alternate_are_named_with_their_turns() -> None:
    entries = [*said("What?", "That."), {"from": "gpt", "value": "And this."}]
    with pytest.raises(DataError) as caught:
        normalise(entries)
    assert "'gpt' speaks twice in a row" in str(caught.value)
    assert "turns 1 and 2" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"from": "humann", "value": "Hi"}, "unknown speaker 'humann'"),
        ({"from": "human"}, "has no text 'from' and 'value'"),
        ({"from": "human", "value": None}, "has no text 'from' and 'value'"),
        ("Hi", "has no text 'from' and 'value'"),
    ],
)
def test_a_malformed_turn_is_named_by_its_number(entry: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        normalise([*said("What?", "That."), entry])
    assert message in str(caught.value)
    assert "turn 2" in str(caught.value)


def test_an_empty_first_question_cannot_be_written() -> None:
    with pytest.raises(DataError, match="has no text"):
        template("phi3").render((Turn("user", ""), Turn("assistant", "ok")))
