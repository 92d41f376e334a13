"""What the site has in addition to docs/: files of other directories, and what the program says of itself."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import notion_oauth
from notion_oauth.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {  # of docs/: the file, and its page
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "deploy/README.md": "deploy.md",
    "examples/README.md": "examples.md",
}
SOURCES = {page: file for file, page in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_COMMAND = re.compile(r"^\| `(notion-oauth (?:mcp (?=[a-z])|profile (?=[a-z]))?\w+)([^`]*)`", re.MULTILINE)
_NAME = re.compile(r"^- `(?:(\w+(?:\.\w+)*)\.)?(\w+)`((?:.|\n  )*)$", re.MULTILINE)
_PARAGRAPH = re.compile(r"<p>.*?</p>", re.DOTALL)
_HEADING_ID = re.compile(r'id="(notion_oauth\.[\w.]+\.([A-Z]\w+))"')
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_CODE = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)
_COLUMNS = re.compile(r"├|\S {7,}[^\s#]")  # of a drawing or a table in code
_CELL = re.compile(r"<(th|td)\b[^>]*>(.*?)</\1>", re.DOTALL)
# Options that docs/commands.md describes once for all commands, if their help is this
_OF_MANY = ("profile", "token_file", "server_url", "env_file", "verbose", "help")
_AS_JSON = "Print JSON."


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of files outside of docs/."""
    for file, page in OUTSIDE.items():
        code = programs() if file == "examples/README.md" else ""
        files.append(File.generated(config, page, content=(ROOT / file).read_text() + code))
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

    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]
    if page.file.src_uri == "commands.md":
        markdown = f"{_with_links_to_commands(markdown)}\n\n## Each command\n\n{_commands()}\n"
    elif page.file.src_uri == "python-api.md":
        markdown = _NAME.sub(_directive, markdown)
    return _LINK.sub(linked, markdown)


def programs_by_path() -> dict[str, Path]:
    """The programs in examples/."""
    found = sorted((ROOT / "examples").iterdir())
    return {f"examples/{file.name}": file for file in found if file.is_file() and file.suffix != ".md"}


def programs() -> str:
    """The code of the examples."""
    files = programs_by_path().values()
    return "".join(f"\n## {each.name}\n\n```{each.suffix[1:]}\n{each.read_text()}```\n" for each in files)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - named by mkdocs
    """Give each cell of a table the heading of its column, and code with columns a class, for site.css.

    On narrow screens, it shows the rows of a table as blocks. It breaks long lines of code, but not columns.
    """
    if page.file.src_uri == "python-api.md":
        content = _with_links_to_names(content)
    return _CODE.sub(_with_class, _TABLE.sub(_with_labels, content))


def _with_class(code: re.Match[str]) -> str:
    has_columns = _COLUMNS.search(re.sub(r"<[^>]+>", "", code[1]))
    return f'<pre class="columns">{code[1]}</pre>' if has_columns else code[0]


def _with_labels(table: re.Match[str]) -> str:
    headings = [html.escape(re.sub(r"<[^>]+>", "", text)) for tag, text in _CELL.findall(table[0]) if tag == "th"]
    columns = iter(range(len(re.findall(r"<td\b", table[0]))))

    def labelled(cell: re.Match[str]) -> str:
        if cell[1] == "th":
            return cell[0]
        return cell[0].replace("<td", f'<td data-label="{headings[next(columns) % len(headings)]}"', 1)

    return _CELL.sub(labelled, table[0])


def _directive(name: re.Match[str]) -> str:
    """The docstring of a public name in a list, and of the members that the item names, in backquotes too.

    Names that are not in `notion_oauth` have their module before them.
    """
    module = name[1] or getattr(notion_oauth, name[2]).__module__
    members = re.findall(r"`(\w+)`", name[3])
    lines = [f"::: {module}.{name[2]}", "    options:", f"      members: {members or 'false'}"]
    if name[1]:
        lines.append("      show_root_full_path: true")
    if module == "notion_oauth.errors":
        lines.append("      merge_init_into_class: false")
    return "\n".join(lines)


def _with_links_to_names(content: str) -> str:
    """Let the names of classes in docstrings lead to their descriptions, if the page has them."""
    places = {name: place for place, name in reversed(_HEADING_ID.findall(content))}
    names = re.compile(rf"<(a|code)\b.*?</\1>|\b({'|'.join(places)})\b", re.DOTALL)

    def linked(found: re.Match[str]) -> str:
        return f'<a href="#{places[found[2]]}">{found[2]}</a>' if found[2] else found[0]

    return _PARAGRAPH.sub(lambda paragraph: names.sub(linked, paragraph[0]), content)


def _with_links_to_commands(markdown: str) -> str:
    return _COMMAND.sub(lambda found: f"| [`{found[1]}{found[2]}`](#{found[1].replace(' ', '-')})", markdown)


def _commands() -> str:
    """What `--help` says, of every command."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_subcommands(group, typer.Context(group, info_name="notion-oauth")))


def _subcommands(group: Any, above: typer.Context) -> Iterator[str]:
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        context = typer.Context(command, info_name=name, parent=above)
        arguments = any(each.param_type_name == "argument" for each in command.params)
        usage = re.sub("[{}]", "", " ".join((context.command_path, *command.collect_usage_pieces(context))))
        described = (_described(parameter) for parameter in command.get_params(context))
        options = "\n".join(line for line in described if line is not None)
        shown = f"`{usage}`" if arguments else ""
        parts = [f"### {context.command_path}", shown, command.help, options, command.epilog]
        yield "\n\n".join(part for part in parts if part)
        if hasattr(command, "list_commands"):
            yield from _subcommands(command, context)


def _described(parameter: Any) -> str | None:
    """A list item for an option or an argument; None for an option of many commands."""
    if parameter.name in _OF_MANY or (parameter.name == "as_json" and parameter.help == _AS_JSON):
        return None
    if parameter.param_type_name == "argument":
        return f"- `{parameter.metavar}`: {parameter.help}"
    values = "|".join(getattr(parameter.type, "choices", ())) or parameter.type.name.upper()
    value = "" if parameter.is_flag else f" {parameter.metavar or values}"
    shown = parameter.show_default and not parameter.is_flag and parameter.default is not None
    default = f" Default: `{parameter.default}`." if shown else ""
    return f"- `{', '.join(parameter.opts)}{value}`: {parameter.help}{default}"
