"""What MkDocs adds to the pages of this folder: the command reference, and the families' own pages.

Both are made while the site is built, from the commands and from the plugins' READMEs, so neither can go stale.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config) -> Files:
    """Add generated pages."""
    from mmcore.cli import cli
    from mmcore.cli.reference import reference

    files.append(File.generated(config, "commands.md", content=reference(cli)))
    for readme in sorted((ROOT / "plugins").glob("*/README.md")):
        files.append(File.generated(config, f"families/{readme.parent.name}.md", content=_page(readme)))
    return files


def _page(readme: Path) -> str:
    """A plugin's README with its links as they are on the site."""
    text = re.sub(r"\]\(([^)\s]+)\)", lambda match: f"]({_inside(match[1], readme.parent)})", readme.read_text())
    # Files of the checkout are not on the site: their links become plain words.
    return re.sub(r"\[([^\]]+)\]\(FILE\)", r"\1", text)


def _inside(target: str, folder: Path) -> str:
    """A link of a README as it is on the site: pages of docs/ by their place there, others as they are."""
    if re.match(r"https?://|#|mailto:", target):
        return target
    path, _, anchor = target.partition("#")
    place = (folder / path).resolve()
    end = f"#{anchor}" if anchor else ""
    if place.is_relative_to(ROOT / "docs"):
        return f"../{place.relative_to(ROOT / 'docs')}{end}"
    if place == ROOT / "README.md":
        return "../index.md"
    if place.name == "README.md" and place.parent.parent == ROOT / "plugins":
        return f"{place.parent.name}.md{end}"
    return "FILE"
