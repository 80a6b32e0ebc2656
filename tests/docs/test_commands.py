"""Every printed `mmcore` command, and the Python of the pages on use, is run, shortened to a step or a few records, or
is listed here with why it is not.

The commands of all pages run in one folder, in the order in which a reader meets them; equal ones once.
"""

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import mmcore
import pytest
from mmcore.cli import main
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *[ROOT / "docs" / f"{name}.md" for name in ("index", "own-data", "lora", "many", "logs", "recipes", "data")],
    *[ROOT / "docs" / f"{name}.md" for name in ("checkpoints", "evaluation", "prediction", "chat", "app", "tutorial")],
    *[ROOT / "docs" / f"{name}.md" for name in ("hooks", "base-models", "python", "troubleshooting", "torchvision")],
    *[ROOT / "docs" / f"{name}.md" for name in ("values", "architecture", "benchmarks", "STATUS")],
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
FENCE = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(\w*)\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\S+ )?(?:echo (\".*?\") \| )?mmcore (.+)$")

NOT_RUN = {
    r"base-models\.md: .*": "models of others are not on this machine; plugins/visper/tests/test_llava_folders.py",
    r"\w+ README\.md: mmcore .*(--init [A-Z]\S*|--data (data|DATA)|clip\.mp4|frames/|runs/video|runs/photos).*": (
        "published data, weights or a film; the family's tests run the same on small ones"
    ),
    r".*mmcore data cache .*": "teachers' published files; plugins/visper/tests/test_cache.py",
    r"recipes\.md: mmcore (plan|train) .*": "published data; tests/core/runs/test_config.py changes the same entries",
    r"data\.md: mmcore data (check|show|index) .*": "published data; plugins/glee/tests/test_data_commands.py",
    r"data\.md: mmcore data convert .*": "published data; tests/core/data/test_convert.py",
    r"glamm README\.md: mmcore .*--own refs\.yaml.*": "own expressions; tests/slow/test_excerpts.py",
    r"griffon README\.md: mmcore train .*eight\.yaml.*": "hours; plugins/griffon/tests/test_data.py opens the same",
    r"griffon README\.md: mmcore (predict|chat) RUN .*": "a trained run; plugins/griffon/tests/test_chat.py",
    r"torchvision\.md: .*retina.*": "a new plugin; tests/docs/test_torchvision.py runs all of the page",
    r"torchvision\.md: .*runs/shelves.*": "the same plugin's; tests/docs/test_torchvision.py",
    r"tutorial\.md: .*otter.*": "a new plugin is installed and run by tests/third_party",
    r"README\.md: mmcore .*--with mydata": "a figure; extensions are run by tests/core/cli/test_plugins.py",
    r".*mmcore report runs/demo runs/two": "compares figures, and one step logs none; tests/core/runs has some that do",
    r".*--add .*": "published data; plugins/glee/tests/test_own_data.py",
    r".*--push-to-hub .*": "no network; tests/core/runs/test_upload.py has a stand-in",
    r".*mmcore app .*": "serves until it is stopped; tests/core/runs/test_app.py",
    r".*mmcore plan .*--probe": "measures; tests/core/runs/test_plan.py",
    r"own-data\.md: mmcore train .*own\.yaml.*": "an hour's figures; shelves.yaml above it runs the same",
}

PYTHON_NOT_RUN = {r'example="crop\.jpg"': "another family's; plugins/griffon/tests/test_chat.py"}

OTHERS = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(?:pip|make|python3?|git|torchrun|srun) .+$")
"""Printed lines for other programs."""

OTHERS_NOT_RUN = {
    r"make test.*": "CI itself: .ci/run",
    r"make demo.*": "minutes each; what they consist of is run above, a step of each",
    r"pip install -c constraints\.txt .*": "what `make setup` has just done for CI, for one family or for all",
    r"pip install -c constraints-app\.txt .*": "another Pillow than the suite's; tests/core/runs/test_app.py",
    r"pip install --no-deps -e mmcore-otter": "tests/third_party does, in an environment of its own",
    r"pip install --no-deps -e mmcore-retina": "tests/docs/test_torchvision.py puts it on the path instead",
    r"python -m mmcore\.data\.formats\.sa1b .*": "published data; plugins/glee/tests/test_sa1b.py calls the same main",
}


def code() -> list[tuple[str, str]]:
    """(page, line) of every line of code that is not marked on its page."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        family = f"{page.parent.name} " if page.parent.parent.name == "plugins" else ""
        for mark, _, text in FENCE.findall(page.read_text()):
            lines = [] if mark else re.sub(r"\\\n\s*", " ", text).splitlines()
            found += [(family + page.name, line.split("  #")[0].split(" #")[0].strip()) for line in lines]
    return found


def printed() -> list[tuple[str, str, str]]:
    """(page, what is piped in, command) of every printed command that is not marked on its page."""
    told = [(page, COMMAND.match(line)) for page, line in code()]
    return [(page, one[1] or "", " ".join(one[2].split())) for page, one in told if one]


def reason(page: str, command: str) -> str | None:
    """Why a command is not run."""
    return next((why for what, why in NOT_RUN.items() if re.fullmatch(what, f"{page}: mmcore {command}")), None)


def shortened(words: list[str]) -> list[str]:
    """The same command with a step or a few records, on the CPU."""
    if words[0] == "train":
        words = [*words, "--max-steps", "1", "--no-tensorboard", "--quiet"]
        words += [] if {"--demo", "--resume"} & {*words} else ["--variant", "tiny", "--init", "random"]
    if words[0] == "eval" and "--limit" not in words:
        words = [*words, "--limit", "2"]
    return words


def test_every_reason_is_needed_and_no_command_is_forgotten():
    told = {f"{page}: mmcore {command}" for page, _, command in printed()}
    assert not [what for what in NOT_RUN if not any(re.fullmatch(what, one) for one in told)]
    assert len([one for one in printed() if reason(one[0], one[2]) is None]) > 25
    assert (
        sorted(path for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")] if path not in PAGES) == []
    )
    others = {line for _, line in code() if OTHERS.match(line)}
    assert not [line for line in others if not any(re.fullmatch(what, line) for what in OTHERS_NOT_RUN)]
    assert not [what for what in OTHERS_NOT_RUN if not any(re.fullmatch(what, line) for line in others)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: a photograph, a folder of them, and own data in COCO's form."""
    from mmcore.data.demo.write import write_demo

    for family in ("mmcore_glamm", "mmcore_glee", "mmcore_griffon", "mmcore_visper"):
        pytest.importorskip(family)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Image.new("RGB", (96, 64), (30, 90, 160)).save("photo.jpg")
    Path("photos").mkdir()
    Image.new("RGB", (64, 64), "red").save("photos/one.jpg")
    write_demo(tmp_path / "shop")
    coco = "{{annotations: coco/annotations/instances_{0}2017.json, images: coco/{0}2017}}"
    Path("shelves.yaml").write_text(
        f"name: shelves\nroot: shop\ntrain: {coco.format('train')}\nval: {coco.format('val')}\n"
    )
    return tmp_path


def test_every_printed_command_runs(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    done: set[str] = set()
    failed: list[str] = []
    for page, piped, command in printed():
        if command in done or reason(page, command) is not None or _made(command):
            continue
        done.add(command)
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped.strip('"') + "\n" if piped else ""))
        code, said = _run(shortened(shlex.split(command)), capsys.readouterr)
        if code:
            failed.append(f"{page}: mmcore {command}\n{said}")
    failed += _python_fails()
    assert not failed, "\n\n".join(failed)


def _python_fails() -> list[str]:
    """What the Python lines of the pages cannot do in the reader's folder, block by block."""
    failed: list[str] = []
    for page in (ROOT / "docs" / "python.md", ROOT / "docs" / "chat.md"):
        names: dict[str, object] = {"mmcore": mmcore}
        for _, language, text in FENCE.findall(page.read_text()):
            lines = [line for line in text.splitlines() if line and language == "py"]
            for line in [line for line in lines if not any(re.search(what, line) for what in PYTHON_NOT_RUN)]:
                try:
                    exec(line, names)
                except mmcore.errors.MmcoreError as error:
                    failed.append(f"{page.name}: {line}\n{error}")
    return failed


def _made(command: str) -> bool:
    """Whether the run or folder that a command makes is there already, from another page."""
    out = re.search(r"--out (\S+)", command)
    return out is not None and Path(out[1]).exists()


def _run(words: list[str], read: Callable[[], object]) -> tuple[int, str]:
    read()
    with pytest.raises(SystemExit) as end:
        main(words)
    code = end.value.code
    return (code if isinstance(code, int) else 1), str(read())[-1500:]
