"""A folder's configuration may name code of its own; nothing of it ever runs, whoever says yes."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CANARY = "import pathlib\npathlib.Path({told!r}).touch()\nfrom transformers import PreTrainedTokenizerFast\n\n\n"
CANARY += "class Canary(PreTrainedTokenizerFast):\n    pass\n"


def hostile_folder(folder: Path) -> Path:
    """A tokenizer whose configuration asks for a class in a file beside it; what that file leaves when it runs."""
    told = folder / "it-ran"
    folder.mkdir()
    (folder / "canary.py").write_text(CANARY.format(told=str(told)))
    maps = {"AutoTokenizer": ["canary.Canary", "canary.Canary"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Canary", "auto_map": maps}))
    (folder / "tokenizer.json").write_text(
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
    )
    return told


@pytest.mark.parametrize("answer", ["y\n" * 100, ""])
def test_a_tokenizer_that_names_code_is_refused_whoever_says_yes(tmp_path: Path, answer: str) -> None:
    told = hostile_folder(tmp_path / "run")
    said = opened(tmp_path, "from mmcore.language.tokens import load_tokenizer; load_tokenizer(sys.argv[1])", answer)
    assert not told.exists()
    assert "[y/N]" not in said


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """Without the word, transformers asks, and a yes runs the file."""
    told = hostile_folder(tmp_path / "run")
    opened(tmp_path, "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(sys.argv[1])", "y\n" * 100)
    assert told.exists()


def opened(folder: Path, code: str, answer: str) -> str:
    """What a process says that opens the folder's tokenizer."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", str(folder / "run")],
        input=answer, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of `from_pretrained` and `from_config` on classes that may load code."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id.startswith("Auto") or node.func.value.id.endswith("Tokenizer"))
    ]


def test_every_call_that_could_load_code_forbids_it() -> None:
    found = 0
    for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("plugins/*/mmcore_*/**/*.py")]:
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            found += 1
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            trusted = given.get("trust_remote_code")
            assert isinstance(trusted, ast.Constant), f"{path}:{call.lineno} says nothing of trust_remote_code"
            assert trusted.value is False, f"{path}:{call.lineno}"
    assert found >= 4
