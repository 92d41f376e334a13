"""The list of commands in the help."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from notion_oauth.cli.commands import rare_commands
from notion_oauth.cli.main import app


def test_help_lists_every_command() -> None:
    listed = CliRunner().invoke(app, ["--help"], env={"TERMINAL_WIDTH": "100", "NO_COLOR": "1"}).stdout
    frequent = [command.callback.__name__ for command in app.registered_commands if command.callback is not None]
    rare = typer.main.get_command(rare_commands)
    assert isinstance(rare, typer.core.TyperGroup)
    for name in (*frequent, *rare.commands, "mcp"):
        assert f" {name} " in listed, f"{name} is not in ORDER of notion_oauth/cli/main.py"
