"""Write a new family plugin that trains as it is: `mmcore plugins new`.

The `*.in` files beside this one are the plugin, with `{{name}}` and a few more words to fill in; a kind has a folder of
its own.
"""

import keyword
import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from packaging.version import Version

from mmcore.errors import UsageError
from mmcore.version import API_VERSION, __version__

KINDS = {"detector": "train", "lmm": "instruct"}
"""Kinds of families, each with the stage that learns most from its sample data."""

_FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "{{kind}}/README.md.in": "README.md",
    "{{kind}}/__init__.py.in": "{{package}}/__init__.py",
    "{{kind}}/recipes.py.in": "{{package}}/recipes.py",
    "{{kind}}/model.py.in": "{{package}}/model.py",
    "{{kind}}/data.py.in": "{{package}}/data.py",
    "tests/test_plugin.py.in": "tests/test_{{name}}.py",
}

EXTENSION = "extension"
"""A plugin without a model, which changes or adds to the runs of others."""

_MODEL_FILES = ("recipes.py", "model.py", "data.py")


def write_plugin(name: str, folder: Path, kind: str = "detector") -> list[Path]:
    """Write a complete, installable family plugin.

    Args:
        name: what --plugin will take: lower case letters, digits and underscores.
        folder: created; must not exist, or be empty.
        kind: "detector", a small one of its own, or "lmm", a language model that sees, on the core's LLaVA,
            or "extension", which has no model.

    Returns:
        The files, in the order in which to read them.

    Raises:
        UsageError: the name cannot be used, or the folder holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot name a plugin",
            where="mmcore plugins new",
            known="lower case letters, digits and single underscores, a letter first",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", where="mmcore plugins new", do="choose another folder with --out")
    words = {**_words(name), "kind": kind}
    written = {t: to for t, to in _FILES.items() if kind != EXTENSION or not to.endswith(_MODEL_FILES)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for template, target in written.items():
            text = files(__name__).joinpath(_fill(template, words)).read_text(encoding="utf-8")
            path = scratch / _fill(target, words)
            path.parent.mkdir(exist_ok=True)
            path.write_text(_fill(text, words), encoding="utf-8")
        (scratch / words["package"] / "py.typed").touch()
        if folder.exists():
            folder.rmdir()
        scratch.chmod(0o755)
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [folder / _fill(target, words) for target in written.values()]


def _words(name: str) -> dict[str, str]:
    camel = "".join(part.capitalize() for part in name.split("_"))
    core, after = _range(__version__)
    api, api_after = _range(API_VERSION)
    return {
        "name": name,
        "package": f"mmcore_{name}",
        "Name": camel,
        "Class": camel,
        "core": core,
        "next": after,
        "api": api,
        "api_next": api_after,
    }


def _range(version: str) -> tuple[str, str]:
    """From this minor version to before the next one that may break: the next minor of 0.x, else the next major."""
    major, minor = Version(version).release[:2]
    return f"{major}.{minor}", f"0.{minor + 1}" if major == 0 else str(major + 1)


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], text)
