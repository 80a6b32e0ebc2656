"""A run folder or an export that was made to ask for code of its own: nothing of it runs, though everybody says yes.

Every JSON configuration in it names a module beside it, which leaves a file when it is imported.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mmcore import plugins

FAMILIES = [plugin.name for plugin in plugins.inspect_all() if plugin.is_family and "tiny" in plugin.variants]
CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor",
    "AutoFeatureExtractor", "AutoVideoProcessor",
)  # fmt: skip
SINGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step and its export, both made to ask for code; a photograph."""
    folder = tmp_path_factory.mktemp(request.param)
    stage = plugins.stages(plugins.manager(plugins.load(request.param), ()), plugins.load(request.param), "tiny")[0]
    start = ["train", "--plugin", request.param, "--stage", stage.number, "--demo", "--max-steps", 1, "--workers", 0]
    assert say_yes(folder, *start, "--device", "cpu", "--out", "run")[0] == 0
    assert say_yes(folder, "export", "run", "--format", "hf", "--out", "export")[0] == 0
    photo = next((folder / "cache" / "demo").rglob("*.jpg"))
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    for part in ("run", "export"):
        poison(folder / part, folder / "it-ran")
    return folder


def poison(folder: Path, told: Path) -> None:
    """Make every configuration below a folder, and such as might be looked for, name code."""
    code = f"import pathlib\npathlib.Path({str(told)!r}).touch()\n"
    code += "".join(f"class {name}Canary: pass\n" for name in CLASSES)
    places = {folder} | {path.parent for name in SINGS for path in folder.rglob(name)}
    for place in places:
        (place / "canary.py").write_text(code)
        for name in SINGS:
            try:
                before = json.loads((place / name).read_text())
            except FileNotFoundError:
                before = {}
            maps = {one: f"canary.{one}Canary" for one in CLASSES} | {
                "AutoTokenizer": ["canary.AutoTokenizerCanary"] * 2
            }
            (place / name).write_text(json.dumps({**before, "auto_map": maps}))


def say_yes(folder: Path, *arguments: object) -> tuple[int, str]:
    """`yes | mmcore ...`: its exit code and what it said."""
    words = shlex.join([sys.executable, "-m", "mmcore", *map(str, arguments)])
    environment = {**os.environ, "MMCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", f"yes | {words}; exit ${{PIPESTATUS[1]}}"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--resume", "run", "--max-steps", 2], ["eval", "run", "--limit", 2],
        ["predict", "run", "photo.jpg"], ["predict", "run", "photo.jpg", "--prompt", "What is it?"],
        ["export", "run", "--format", "hf", "--out", "again"], ["plan", "--plugin", "FAMILY", "--init", "run"],
        ["predict", "export", "photo.jpg"], ["predict", "export", "photo.jpg", "--prompt", "What is it?"],
    ],
    ids=lambda command: " ".join(map(str, command)),
)  # fmt: skip
def test_no_command_runs_code_of_a_folder_whoever_says_yes(folder: Path, command: list[object]) -> None:
    family = folder.name.rstrip("0123456789")
    code, said = say_yes(folder, *(family if word == "FAMILY" else word for word in command))
    assert not (folder / "it-ran").exists()
    assert "[y/N]" not in said
    assert "Traceback" not in said, said
    assert code in (0, 1, 2)


def test_a_resume_still_trains(folder: Path) -> None:
    code, said = say_yes(folder, "train", "--resume", "run", "--max-steps", 3)
    assert code == 0, said
    assert not (folder / "it-ran").exists()
