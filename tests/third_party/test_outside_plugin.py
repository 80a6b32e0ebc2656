"""The promise: a plugin that arrives from outside. Wheels, pip and a clean environment; nothing of the source tree.

The environment sees the heavy dependencies of the running one (as links, without anything of mmcore), so the test needs
no network and takes seconds instead of gigabytes.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
OURS = ("mmcore", "__editable__", "pip")
SHORT = ["--demo", "--set", "steps=12", "--set", "checkpoint_every=6", "--device", "cpu", "--workers", "0"]


class Outside:
    """A virtual environment with mmcore installed from its wheel.

    Args:
        folder: empty; gets the environment, wheels and runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "env")
        self.bin = folder / "env" / "bin"
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        heavy = folder / "heavy"
        heavy.mkdir()
        for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not entry.name.startswith(OURS) and entry.suffix != ".pth":
                (heavy / entry.name).symlink_to(entry)
        (self.site / "heavy.pth").write_text(f"{heavy}\n")

    def build(self, project: Path) -> Path:
        """The wheel of a project, built from a copy, so that nothing is left in the source tree."""
        copy = self.folder / "build" / project.name
        shutil.copytree(project, copy, ignore=_only_the_core)
        before = set(self.wheels.glob("*.whl"))
        self._pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(self.wheels), str(copy))
        (wheel,) = set(self.wheels.glob("*.whl")) - before
        return wheel

    def install(self, wheel: Path) -> None:
        """pip, without looking for dependencies anywhere."""
        self._pip("--python", str(self.bin / "python"), "install", "--no-deps", "--no-index", str(wheel))

    def uninstall(self, distribution: str) -> None:
        self._pip("--python", str(self.bin / "python"), "uninstall", "--yes", distribution)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Standard output of `mmcore ARGUMENTS`, which must exit with `code`."""
        done = subprocess.run(
            [str(self.bin / "mmcore"), *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "MMCORE_CACHE": str(self.folder / "cache"),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"mmcore {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def installed(self) -> set[str]:
        """Every file of the environment, but for compiled ones."""
        return {
            str(path.relative_to(self.folder / "env"))
            for path in (self.folder / "env").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def plugins(self) -> dict[str, str | None]:
        """Name -> problem of every plugin that is listed."""
        return {p["name"]: p["problem"] for p in json.loads(self.run("plugins", "list", "--json"))["plugins"]}

    def _pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
        # Without PYTHONPATH: what lies there, pip takes for installed.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _only_the_core(folder: str, names: list[str]) -> set[str]:
    """What a copy leaves out: build outputs, and of the checkout all that the wheel of mmcore is not made of."""
    if Path(folder) == ROOT:
        return set(names) - {"core", "pyproject.toml", "README.md", "LICENSE"}
    return {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}


@pytest.fixture(scope="module")
def core_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        ready = Version(version("setuptools")).major >= 77 and version("pip") is not None
    except PackageNotFoundError:
        ready = False
    if not ready:
        pytest.skip("building wheels without the network needs pip and setuptools >= 77: make setup")
    return Outside(tmp_path_factory.mktemp("builder")).build(ROOT)


@pytest.fixture
def outside(core_wheel: Path, tmp_path: Path) -> Outside:
    """A clean environment with mmcore and no plugin."""
    environment = Outside(tmp_path)
    environment.install(core_wheel)
    return environment


def weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(core_wheel):
    names = zipfile.ZipFile(core_wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "mmcore",
        f"mmcore_trainer-{core_wheel.name.split('-')[1]}.dist-info",
    }
    for needed in ("mmcore/py.typed", "mmcore/plugins/scaffold/detector/model.py.in", "mmcore/cli/__init__.py"):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    "project", sorted((ROOT / "plugins").glob("*/pyproject.toml")), ids=lambda path: path.parent.name
)
def test_the_wheel_of_a_family_holds_neither_tests_nor_the_runner_of_golden_cases(core_wheel, tmp_path, project):
    del core_wheel  # skips where no wheel can be built
    wheel = Outside(tmp_path).build(project.parent)
    parts = [set(name.split("/")) for name in zipfile.ZipFile(wheel).namelist()]
    assert any("model.py" in part for part in parts)
    assert not [part for part in parts if part & {"parity", "tests"}]


def test_a_plugin_from_outside_trains_resumes_exports_and_leaves_without_a_trace(outside):
    assert outside.plugins() == {}
    before = outside.installed()

    outside.run("plugins", "new", "toy")
    outside.install(outside.build(outside.folder / "mmcore-toy"))
    assert outside.plugins() == {"toy": None}
    assert "1 train" in outside.run("plugins", "show", "toy")
    assert "12 of 12 checks passed" in outside.run("plugins", "check", "toy")

    train = ("train", "--plugin", "toy", "--stage", "1", *SHORT)
    outside.run(*train, "--out", "whole")
    outside.run(*train, "--out", "halves", "--max-steps", "6")
    assert not (outside.folder / "halves" / "checkpoints" / "step-00000012").exists()
    outside.run("train", "--resume", "halves", "--max-steps", "12")
    assert weights(outside.folder / "halves", 12) == weights(outside.folder / "whole", 12)

    metrics = json.loads(outside.run("eval", "whole", "--on", "shapes_val", "--json"))
    assert "bbox/AP50" in json.dumps(metrics)
    picture = outside.folder / "cache" / "demo" / "toy" / "val" / "0001.png"
    outside.run("predict", "whole", str(picture), "--out", "pictures")
    assert (outside.folder / "pictures" / "0001.png").is_file()
    outside.run("export", "whole", "--format", "upstream", "--out", "exported")
    outside.run(*train, "--out", "again", "--init", "exported", "--max-steps", "1")
    assert '"source": "exported"' in (outside.folder / "again" / "run.json").read_text()

    outside.uninstall("mmcore-toy")
    assert outside.installed() == before
    assert outside.plugins() == {}
    message = outside.run("train", "--resume", "whole", code=2)
    assert "no plugin named 'toy' is installed" in message
    assert "Traceback" not in message


def test_a_second_plugin_that_raises_on_import_breaks_nothing(outside):
    outside.run("plugins", "new", "toy")
    outside.install(outside.build(outside.folder / "mmcore-toy"))
    bomb = outside.folder / "mmcore-bomb"
    bomb.mkdir()
    (bomb / "mmcore_bomb.py").write_text("raise RuntimeError('boom')\n")
    (bomb / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"

        [project]
        name = "mmcore-bomb"
        version = "3.1"

        [project.entry-points.mmcore]
        bomb = "mmcore_bomb"

        [tool.setuptools]
        py-modules = ["mmcore_bomb"]
        """)
    )
    outside.install(outside.build(bomb))
    assert outside.plugins() == {"toy": None, "bomb": "cannot be imported: RuntimeError: boom"}
    listed = outside.run("plugins")
    assert "bomb  mmcore-bomb 3.1  cannot be used" in listed
    assert "pip uninstall mmcore-bomb" in listed
    outside.run("train", "--plugin", "toy", "--stage", "1", *SHORT, "--out", "beside", "--max-steps", "2")
    outside.run("plan", "--plugin", "toy", "--stage", "1", "--no-build")
    message = outside.run("train", "--plugin", "bomb", "--stage", "1", "--demo", code=2)
    assert "plugin bomb (mmcore-bomb 3.1)" in message
    assert "cannot be imported: RuntimeError: boom" in message
    assert "Traceback" not in message
