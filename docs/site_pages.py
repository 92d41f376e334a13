"""Pages of the site that are not in docs/: files of other directories, and what the program says of itself."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

import notion_oauth
from notion_oauth.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {  # of docs/: the file, and its page
    "README.md": "start.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "deploy/README.md": "deploy.md",
    "examples/README.md": "examples.md",
}
SOURCES = {page: file for file, page in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for file, page in OUTSIDE.items():
        code = programs() if file == "examples/README.md" else ""
        files.append(File.generated(config, page, content=(ROOT / file).read_text() + code))
    files.append(File.generated(config, "api.md", content=api()))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - named by mkdocs
    """Let links between the repository's files lead to their pages. Files without a page are named, not linked."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(link: re.Match[str]) -> str:
        image, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        found = OUTSIDE.get(path) or OUTSIDE.get(f"{path}/README.md") or path.removeprefix("docs/")
        if path in programs_by_path():
            return f"[{text}](examples.md#{posixpath.basename(path).replace('.', '')})"
        if files.get_file_from_path(found) or not (ROOT / path).exists():  # mkdocs reports what does not exist
            return f"{image}[{text}]({found}{anchor})"
        return text

    return _LINK.sub(linked, markdown)


def programs_by_path() -> dict[str, Path]:
    """The programs in examples/."""
    found = sorted((ROOT / "examples").iterdir())
    return {f"examples/{file.name}": file for file in found if file.is_file() and file.suffix != ".md"}


def programs() -> str:
    """The code of the examples."""
    files = programs_by_path().values()
    return "".join(f"\n## {each.name}\n\n```{each.suffix[1:]}\n{each.read_text()}```\n" for each in files)


def api() -> str:
    """The public names, from their docstrings."""
    names = [name for name in notion_oauth.__all__ if hasattr(getattr(notion_oauth, name), "__module__")]
    objects = (f"::: {getattr(notion_oauth, name).__module__}.{name}" for name in names)
    return "# Python API\n\n`from notion_oauth import …`\n\n" + "\n\n".join(objects) + "\n"


def commands() -> str:
    """What `--help` says, of every command."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="notion-oauth", title="Commands")
