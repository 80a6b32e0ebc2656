"""The documentation is complete and true: every hook and field has its words, every example runs, every link leads."""

import inspect
import re
import tomllib
from pathlib import Path

import mmcore
import pytest
from mmcore import plugins
from mmcore.cli import COMMANDS
from mmcore.contract import mixture, recipe
from mmcore.contract.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "plugins").glob("*/README.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def sections(page: Path, level: str = "## ") -> dict[str, str]:
    """Heading -> text below it, up to the next heading of this level, a pattern."""
    parts = re.split(rf"^{level}(.+)$", page.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def examples(page: Path) -> list[str]:
    """The Python examples of a page, in order."""
    return [code for language, code in FENCE.findall(page.read_text()) if language == "python"]


@pytest.mark.parametrize("hook", plugins.known_hooks())
def test_every_hook_has_a_section_that_names_its_arguments(hook):
    text = sections(ROOT / "docs" / "hooks.md")[hook]
    for argument in plugins.known_hooks()[hook]:
        assert re.search(rf"\b{argument}\b", text), argument


def test_no_section_describes_a_hook_that_is_gone():
    described = [title for title in sections(ROOT / "docs" / "hooks.md") if re.fullmatch("[a-z_]+", title)]
    assert described == list(plugins.known_hooks())


PARTS = dict(inspect.getmembers(recipe, inspect.isclass) + inspect.getmembers(mixture, inspect.isclass))


@pytest.mark.parametrize("part", [part for part in PARTS.values() if issubclass(part, Recipe) and part != Recipe])
def test_every_recipe_field_is_documented_and_no_other(part):
    text = sections(ROOT / "docs" / "recipes.md", "##+ ")[part.__name__]
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.M) == list(part.model_fields)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"`mmcore {command}`" in sections(ROOT / "README.md")["Commands"]


def test_the_readme_opens_with_the_two_commands():
    opening = (ROOT / "README.md").read_text().split("\n\n")[1]
    assert [line.split("#")[0].strip() for line in opening.splitlines()[1:-1]] == ["make demo", "make test"]


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page):
    namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    for number, code in enumerate(examples(page)):
        exec(compile(code, f"{page.name}, example {number + 1}", "exec"), namespace)


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file) if file else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(), flags=re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_commands_and_options_in_the_documentation_exist(page):
    for words in re.findall(
        r"^(?:\$ )?(?:\w+=\S+ )?mmcore ([^#\n]+)", "\n".join(c for _, c in FENCE.findall(page.read_text())), re.M
    ):
        options = accepted_options(words.split())
        for option in re.findall(r"(?<!\S)--[a-z-]+", words):
            assert option in options, f"mmcore {words}"


def accepted_options(words: list[str]) -> set[str]:
    """Every option of the command that these words begin with."""
    import click
    from mmcore.cli import cli

    command: click.Command = cli
    for word in words:
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command = found
    return {"--help", "--debug"} | {option for parameter in command.params for option in parameter.opts}


def test_the_table_of_sources_in_glees_readme_is_its_recipe():
    pytest.importorskip("mmcore_glee")
    from mmcore_glee.recipes import stages

    text = sections(ROOT / "plugins" / "glee" / "README.md")["Stages of Lite"]
    told = re.findall(r"^\| `(\w+)` \| (\S+) \| ([^|]+) \|$", text, flags=re.M)
    (joint,) = [stage for stage in stages("lite") if stage.number == 2]
    assert told == [(name, f"{source.weight:g}", source.format) for name, source in joint.data.sources.items()]


def test_every_public_name_of_mmcore_is_there():
    for name in mmcore.__all__:
        assert getattr(mmcore, name) is not None


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_every_file_the_architecture_names_exists():
    text = ARCHITECTURE.read_text()
    named = re.findall(r"`((?:core|plugins|tests|docs)/[\w./-]+|pyproject\.toml)`", text)
    assert len(named) > 50
    assert not [path for path in named if not (ROOT / path).is_file()]
    layers = "|".join(layers_of_the_core())
    inside = re.findall(rf"\b((?:{layers})/[\w/]*(?:\.py)?)", FENCE.findall(text)[1][1])
    assert len(inside) > 5
    assert not [path for path in inside if not (ROOT / "core" / "mmcore" / path).exists()]


def test_the_figure_has_the_layers_that_are_enforced():
    drawn = [re.split(r"\s{2,}", line)[0] for line in FENCE.findall(ARCHITECTURE.read_text())[0][1].splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    enforced = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    assert [line.replace(" · ", " : ") for line in drawn] == enforced


def layers_of_the_core() -> list[str]:
    """Packages of the core."""
    return [path.name for path in (ROOT / "core" / "mmcore").iterdir() if path.is_dir()]


def test_the_command_reference_has_every_command_with_every_option():
    import click
    from mmcore.cli import cli
    from mmcore.cli.reference import reference

    text = reference(cli)

    def look(command: click.Command, path: str) -> None:
        assert re.search(rf"^##+ {path}$", text, re.M), path
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) and not parameter.hidden else ():
                assert option in text, f"{path} {option}"
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                look(inner, f"{path} {name}")

    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        look(command, f"mmcore {name}")


def test_the_site_has_every_page_once():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().split("nav:")[1])
    made = {f"families/{path.parent.name}.md" for path in (ROOT / "plugins").glob("*/README.md")} | {"commands.md"}
    assert sorted(listed) == sorted({page.name for page in PAGES} | made)
