"""What people's files and runs really have: every reported input, run as it was reported.

The inputs lie in the folder `cases` of the reference data, each with its command; without it these tests are skipped,
and what they show is shown by small files of our own under `tests/core` and in the plugins' tests.
"""

import runpy
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Expected:
    """What should come of a case's commands.

    Attributes:
        codes: exit codes of those that run, in order.
        says: what is said by them.
        never: what is not.
    """

    codes: tuple[int, ...]
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def fine(*says: str, codes: tuple[int, ...] = (0, 0)) -> Expected:
    return Expected(codes, says)


SAVED = "saved run/checkpoints/step-00000002"

CASES = {
    "001": Expected((0, 0), (SAVED, "bbox/AP50 0.0%", "best last step-00000002", "the run stands at step 2 of 700")),
    "003": fine(SAVED, "no metric is defined: the validation sets have nothing to find, or only crowds"),
    "005": fine(SAVED, "no metric is defined: these images have no objects to find, or only crowds"),
    "006": fine("'bbox/AP': 1.0", "'bbox/AR@100': 1.0", codes=()),
    "008": fine(SAVED),
    "010": fine(SAVED),
    "012": fine("train coco: 4 records, no problems", SAVED),
    "014": fine("the category 'fish', which an export put above all others", SAVED, codes=(0, 0, 0)),
    "015": fine("'bbox/AP': 1.0", "{'bbox': {'person': 1.0}}", codes=(0,)),
    "017": Expected(
        (1, 2), ("--set validation.coco_val.options.names=file", "write validation.coco_val instead"), ("saved",)
    ),
    "018": fine(SAVED, "mine_val/bbox/AP", codes=(0,)),
    "019": Expected((1,), ("coco: 4 x bbox unusable", "is not four finite numbers"), ("saved",)),
    "021": fine("coco: 4 x segmentation left out or cut", SAVED, codes=(0, 0)),
    "022": Expected((1,), ("none of 4 images has an object to train on (8 crowds)",)),
    "024": Expected((1,), ("train coco: 4 records, no problems", "(four numbers are a box)", 'format="COCO boxes"')),
    "026": fine("train coco: 4 records, no problems", SAVED),
    "027": fine("train coco: 4 records, no problems", SAVED),
    "029": fine("train coco: 4 records, no problems", SAVED),
    "030": fine("train coco: 4 records, no problems", SAVED),
    "032": Expected((1,), ("id 1180591620717411303425 of an element of annotations does not fit 64 bits",)),
    "033": fine("train coco: 4 records, no problems", SAVED),
    "036": Expected((1, 0), ("lies 3.5 pixels outside its 96x64 image; cut at the border", SAVED)),
    "037": fine("coco: 1 x bbox left out or cut", "saved run/checkpoints/step-00000001", codes=(0,)),
    "038": Expected((1, 1), ("its EXIF entry turns it", "write the image anew"), ("saved",)),
    "039": fine(SAVED),
    "040": fine("train coco: 4 records, no problems", codes=(0,)),
    "042": Expected((1, 1), ("--set validation.NAME=null",), ("not a COCO instances file",)),
    "043": Expected((1,), ("train coco: 4 records, no problems",), ("refcoco",)),
    "044": Expected((1,), ("an object has no mask", '--set data.sources.coco.format="COCO boxes"')),
    "046": Expected((1, 1), ("/data/coco/annotations", "/moved/coco/annotations")),
    "048": fine(SAVED),
    "050": Expected((1,), ("an answer has <image>",)),
    "051": fine(SAVED),
    "052": fine(SAVED),
    "053": fine(SAVED, "demo_val/accuracy"),
    "056": Expected((1,), ("the conversation has no answer", "2 of 4 records cannot be asked and are left out")),
    "057": Expected((1,), ("answer 1 of the conversation is empty",)),
    "059": fine("train questions: 6 records, no problems", codes=(0,)),
    "061": Expected((1,), ("train questions: 6 records, no problems", "chance_from needs visper/questions_train.json")),
    "062": fine(SAVED),
    "064": fine(SAVED),
    "065": Expected((0, 0, 1), ("text_encoder",)),
    "067": fine("tensors filled", codes=(0, 0, 0)),
    "070": Expected(
        (1, 1), ("a Git LFS pointer, not the file of 231,508,748 bytes", "git lfs pull"), ("\x1b", "saved")
    ),
    "072": fine("tensors filled", codes=(0, 0, 0)),
    "073": Expected((1,), ("this is a LoRA adapter for my/model", "merge it into its base first")),
    "075": fine("64 rows past the vocabulary of 1024 are left out", "39 tensors filled", codes=(0, 0, 0)),
    "076": fine("tensors filled", codes=(0, 0)),
    "077": Expected((0, 0, 1), ("model-00002-of-00002.safetensors", "index")),
    "078": Expected((1,), ("zero_to_fp32.py",)),
    "079": Expected((0, 1, 0, 0), ("--data", "resumed at step 1 of 2")),
    "080": Expected((1, 0, 0), (SAVED, "trian")),
    "082": Expected(
        (0, 0, 0), ("the run is finished, all 2 steps are made; `mmcore train --resume run --steps N` goes on",)
    ),
    "084": Expected((0, 1), ("has changed", "--allow-changed-data")),
    "085": fine("lr 0  1 updates dropped to find the loss scale", codes=(0,)),
}


QUICK = ("022", "024", "032", "040", "042", "043", "044", "046", "050", "056", "057", "059", "061", "070", "078")
"""Those that take a second: nothing is trained. The first command of every other is in `test_a_first_look`."""


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a case, each with what joins it to the one before; what shortens their output is left out."""
    joined, words = "", []
    words_of = shlex.shlex(text, posix=True, punctuation_chars="();&|")
    words_of.whitespace_split = True
    for word in [*words_of, ";"]:
        if word not in ("&&", "||", "|", ";", "(", ")"):
            words.append(word)
            continue
        if words and joined != "|":
            yield joined, words
        joined, words = word, []


def perform(
    words: list[str], run: Run, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """One command in this process: ours, a script of the case, or what moves files about."""
    while "=" in words[0]:
        name, _, value = words[0].partition("=")
        patch.setenv(name, value)
        words = words[1:]
    name, given = words[0], words[1:]
    if name == "mmcore":
        return run(*given)
    if name == "python":
        patch.setattr(sys, "argv", given)
        with warnings.catch_warnings(action="ignore"):  # scripts of their time: old addresses, files left open
            exec(given[1], {}) if given[0] == "-c" else runpy.run_path(given[0], run_name="__main__")
        said = capsys.readouterr()
        return 0, said.out + said.err
    if name == "mv":
        shutil.move(given[0], given[1])
    elif name == "rm":
        Path(given[0]).unlink()
    elif name == "ls":
        return 0, " ".join(sorted(path.name for path in Path(given[0]).iterdir()))
    else:
        assert name in ("true", "export"), name  # the folder of caches is the test's own
    return 0, ""


def params() -> list[object]:
    return [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow, id=case) for case in CASES]


@pytest.mark.parametrize("case", params())
def test_a_reported_input_is_taken_or_named(
    case: str,
    run: Run,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"no case {case} in the reference data")
    text = (folder / "command.txt").read_text(encoding="utf-8")
    pytest.importorskip("mmcore_visper" if "--plugin visper" in text else "mmcore_glee")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    codes, said = [], ""
    code = 0
    for joined, words in commands(text):
        if (joined == "&&" and code) or (joined == "||" and not code):
            continue
        with monkeypatch.context() as patch:
            code, told = perform(words, run, capsys, patch)
        if words[-1] != "true" and "mmcore" in words:
            codes.append(code)
        said += told
    expected = CASES[case]
    assert tuple(codes) == expected.codes, said
    for words in expected.says:
        assert words in said, said
    for words in expected.never:
        assert words not in said, said


@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK])
def test_a_first_look(case: str, run: Run, shared: Path, tmp_path: Path) -> None:
    """What `mmcore data check` says before anything is trained, where it is what a case begins with."""
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"no case {case} in the reference data")
    _, words = next(commands((folder / "command.txt").read_text(encoding="utf-8")))
    if words[:3] != ["mmcore", "data", "check"]:
        pytest.skip("nothing is looked at before it is trained on")
    pytest.importorskip("mmcore_visper" if "visper" in words else "mmcore_glee")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    code, said = run(*words[1:])
    assert code == (CASES[case].codes or (0,))[0], said


def test_every_reported_input_is_tried(shared: Path) -> None:
    found = {path.name for path in (shared / "cases").iterdir() if path.is_dir()}
    assert found == set(CASES)
