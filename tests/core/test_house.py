"""The house rules that a linter does not know: the core names no family, and its tests need none.

A family may be cited where a reader wants to know where something comes from: in a comment, and in a docstring (a bare
string that opens a module, class or function, or that follows a field). It may stand nowhere else: not in a name of the
code, not in a file's name, and in no string that a user can read or that decides anything. Docstrings below `cli` are
the help of commands, so they are such strings.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, TESTS = ROOT / "core" / "mmcore", ROOT / "tests" / "core"
REGISTERED = tuple(sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file()))
NAMED = re.compile("|".join((*REGISTERED, "glamm|griffon")), re.IGNORECASE)
"""Families of this repository, whether or not their plugins are in this checkout."""
SOURCES = sorted(CORE.rglob("*.py"))
TEMPLATES = sorted(CORE.rglob("*.in"))


def citations(tree: ast.AST) -> set[int]:
    """The identity of every bare string: docstrings of modules, classes, functions and fields."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def words(tree: ast.AST, *, docstrings: bool) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string of the code; bare strings only with `docstrings`."""
    cited = set() if docstrings else citations(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in cited:
            yield line, node.value
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(found := getattr(node, field, None), str):
                yield line, found


def named(source: str, *, docstrings: bool = False) -> list[str]:
    """`LINE: TEXT` for each place where a source names a family."""
    return [
        f"{line}: {text.strip()[:100]!r}"
        for line, text in words(ast.parse(source), docstrings=docstrings)
        if NAMED.search(text)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_no_family_outside_citations(path: Path) -> None:
    assert not NAMED.search(str(path.relative_to(CORE)))
    found = named(path.read_text(encoding="utf-8"), docstrings="cli" in path.relative_to(CORE).parts)
    assert not found, f"{path.relative_to(ROOT)} names a family: {'; '.join(found)}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(CORE)))
def test_what_the_core_writes_for_a_new_family_names_no_other(path: Path) -> None:
    assert not NAMED.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""As in GLEE."""\nx = 1\n"""GLaMM\'s."""\n# Griffon', 0),
        ('do = "pip install mmcore-glee"', 1),
        ('f"see {x} of VisPer"', 1),
        ("def glamm_order(): ...", 1),
        ("import mmcore_glee", 1),
        ("def f(griffon=1): ...", 1),
        ("x.visper", 1),
    ],
)
def test_the_rule_tells_citations_from_behaviour(source: str, count: int) -> None:
    assert len(named(source)) == count


def test_the_help_of_a_command_is_behaviour() -> None:
    assert len(named('def train():\n    """Like GLEE."""', docstrings=True)) == 1


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_the_cores_tests_need_no_plugin_installed(path: Path) -> None:
    plugins = tuple(f"mmcore_{name}" for name in REGISTERED)
    imported, strings = list[str](), list[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    assert not [name for name in imported if name.split(".")[0] in plugins]
    # A family's name on its own is an argument such as --plugin; golden files and messages may hold it.
    assert not [text for text in strings if text in (*REGISTERED, *plugins)]


def test_no_file_holds_both_sides_of_a_merge() -> None:
    marks = re.compile("^(<{7}|>{7}) ", re.MULTILINE)
    folders = ("core", "docs", "plugins", "tests", "bench")
    files = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    texts = [path for path in files if path.suffix in (".md", ".py", ".toml", ".yml", ".txt", ".in", ".json")]
    assert not [path for path in texts if marks.search(path.read_text(encoding="utf-8"))]


WRITTEN = sorted(
    path
    for folder in (ROOT / "core", ROOT / "docs", ROOT / "plugins", ROOT / "bench")
    for path in folder.rglob("*")
    if path.suffix in (".py", ".md", ".in", ".toml") and "tests" not in path.relative_to(ROOT).parts
)
STRANGERS = re.compile(
    r"pypi\.org/project/mmcore(?!-trainer)|pip3? install [^`\n]*(?<![\w./-])mmcore(?!-trainer)(?![\w/])"
)
"""A link to the package of our name, or an instruction to install it or one that is on no index (`mmcore-glee`)."""


def strangers(text: str) -> list[str]:
    """Every place of a text that leads to a package of somebody else's."""
    return [found[0] for found in STRANGERS.finditer(text) if " -e " not in found[0] and "--upgrade" not in found[0]]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("pip install mmcore", 1),
        ("do: pip install -U 'mmcore[app]'", 1),
        ("see https://pypi.org/project/mmcore/", 1),
        ("pip install mmcore-glee", 1),
        ("pip install 'mmcore-trainer[app]'", 0),
        ("pip install --no-deps -e mmcore-otter", 0),
        ("pip install -c constraints.txt -e . -e plugins/glee", 0),
    ],
)
def test_what_leads_to_a_strangers_package_is_seen(text: str, count: int) -> None:
    assert len(strangers(text)) == count


def test_no_instruction_leads_to_a_strangers_package() -> None:
    pages = [*WRITTEN, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "Makefile"]
    found = {str(path.relative_to(ROOT)): told for path in pages if (told := strangers(path.read_text()))}
    assert not found
