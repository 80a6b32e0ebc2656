"""Wordings may be replaced by a file, with the placeholders that each bank has, and by nothing else."""

import json
from pathlib import Path

import pytest
from mmcore.errors import RecipeError
from mmcore.language.templates import Bank, replace_banks

BANKS = {
    "segment": Bank(("Where is {class_name}?", "Segment {class_name}."), ("{class_name}",)),
    "answer": Bank(("It is [SEG].",), ("[SEG]",)),
    "caption": Bank(("Describe the image.",)),
}


def test_banks_that_a_file_names_are_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("segment: ['Find the {class_name}, please.', 'Show {class_name}.', '{class_name}?']")
    replaced = replace_banks(BANKS, path)
    assert replaced["segment"].wordings == ("Find the {class_name}, please.", "Show {class_name}.", "{class_name}?")
    assert replaced["segment"].placeholders == ("{class_name}",)
    assert {name: replaced[name] for name in ("answer", "caption")} == {
        name: BANKS[name] for name in ("answer", "caption")
    }


def test_json_will_do_and_a_bank_may_become_its_own_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({name: list(bank.wordings) for name, bank in BANKS.items()}, indent=1))
    assert replace_banks(BANKS, path) == BANKS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("segmnt: ['{class_name}']", "did you mean 'segment'?"),
        ("segment: []", "no list of wordings"),
        ("segment: 'Where is {class_name}?'", "no list of wordings"),
        ("segment: ['Where is it?']", "placeholders none, where each wording of this bank has {class_name}"),
        ("segment: ['{class_name} or {class_name}']", "placeholders {class_name}, {class_name}, where"),
        ("segment: ['Where is {class_nam}?']", "placeholders {class_nam}, where"),
        ("answer: ['It is <SEG>.']", "placeholders <SEG>, where"),
        ("caption: ['Describe <image>.']", "placeholders <image>, where each wording of this bank has none"),
        ("caption: ['fine', 3]", "caption, wording 2"),
        ("caption: ['']", "is no text"),
        ("- caption", "a mapping of keys to values"),
    ],
)
def test_what_is_no_wording_of_the_bank_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError) as caught:
        replace_banks(BANKS, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
