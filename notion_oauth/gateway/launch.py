"""How another process, such as an MCP client, starts the gateway with the same login as this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from notion_oauth.gateway.clients import Launch, Machine
from notion_oauth.profile_names import DEFAULT_PROFILE
from notion_oauth.settings import Settings

SELECTING = ("profile", "token_file", "server_url", "env_file")  # settings that are also options of `mcp`


def machine() -> Machine:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises if it is unknown
    return Machine(sys.platform, home, os.environ)


def server_name(settings: Settings) -> str:
    """The name of the server in a client's configuration, so that a client can have one for each profile."""
    return "notion" if settings.profile == DEFAULT_PROFILE else f"notion-{settings.profile}"


def selected(settings: Settings, names: Sequence[str] = SELECTING) -> dict[str, str]:
    """The settings that select the same login and server in a process without this one's environment."""
    chosen = set(settings.given)
    if settings.profile != DEFAULT_PROFILE:
        chosen.add("profile")  # `profile use` may have set it, and may later set another
    if "XDG_DATA_HOME" in os.environ and settings.token_file_origin == "user_data":  # noqa: S105 - an origin
        chosen.add("token_file")
    if settings.database is not None:
        chosen.discard("token_file")  # as an option, it would take the place of the database
    return {name: str(getattr(settings, name)) for name in names if name in chosen}


def login_arguments(settings: Settings, names: Sequence[str] = SELECTING) -> list[str]:
    """The same, as options of the command line."""
    values = selected(settings, names)
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]


def launch(settings: Settings, program: Sequence[str], options: Sequence[str] = ()) -> Launch:
    """How a client starts the gateway with these settings. `program` starts the command line."""
    command, *rest = program
    return Launch(server_name(settings), command, (*rest, "mcp", *login_arguments(settings), *options))
