"""A real system keyring: GNOME's Secret Service, on a D-Bus session and in directories of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine

jeepney = pytest.importorskip("jeepney")
blocking = pytest.importorskip("jeepney.io.blocking")
secretstorage = pytest.importorskip("secretstorage")

DBUS, DAEMON = shutil.which("dbus-daemon"), shutil.which("gnome-keyring-daemon")
REQUIRED = os.environ.get("NOTION_OAUTH_TEST_KEYRING") == "required"
STARTS_WITHIN = 20.0  # seconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DBUS and DAEMON) and not REQUIRED,
        reason="needs dbus-daemon and gnome-keyring-daemon (Debian: gnome-keyring)",
    ),
]


class SecretService:
    """The keyring daemon on a session bus. `environment` gives programs access to it."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self._address = address
        self.environment = environment

    def wait_until_started(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        with blocking.open_dbus_connection(bus=self._address) as connection:
            bus = blocking.Proxy(jeepney.message_bus, connection)
            while not bus.NameHasOwner("org.freedesktop.secrets")[0]:
                assert time.monotonic() < until, "the keyring daemon did not start"
                time.sleep(0.05)

    def lock(self) -> None:
        with closing(blocking.open_dbus_connection(bus=self._address)) as connection:
            collection = secretstorage.get_default_collection(connection)
            collection.lock()
            assert collection.is_locked()

    def items(self) -> list[str]:
        """The services whose secrets are stored."""
        with closing(blocking.open_dbus_connection(bus=self._address)) as connection:
            return [
                item.get_attributes()["service"]
                for item in secretstorage.get_default_collection(connection).get_all_items()
            ]


@pytest.fixture
def secret_service(tmp_path: Path) -> Iterator[SecretService]:
    assert DBUS, "dbus-daemon is required and not installed"
    assert DAEMON, "gnome-keyring-daemon is required and not installed"
    home = tmp_path / "home"
    runtime = tmp_path / "runtime"
    for directory in (home, runtime):
        directory.mkdir(mode=0o700)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    arguments = [DBUS, "--session", "--nofork", "--nopidfile", "--print-address=1"]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as bus:
        assert bus.stdout is not None
        address = environment["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().decode().strip()
        daemon = subprocess.Popen(
            [DAEMON, "--foreground", "--unlock", "--components=secrets"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with daemon:
            assert daemon.stdin is not None
            daemon.stdin.write(b"the password of this login keyring")
            daemon.stdin.close()
            try:
                service = SecretService(address, environment)
                service.wait_until_started()
                yield service
            finally:
                daemon.kill()
                bus.kill()


@pytest.fixture
def keyed(cli: CommandLine, secret_service: SecretService) -> dict[str, str]:
    """The environment for commands that use the keyring, which has a key."""
    done = cli.process("key", "--keyring", **secret_service.environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert secret_service.items() == ["notion-oauth"]
    return {**secret_service.environment, "NOTION_OAUTH_ENCRYPTION_KEY": "keyring"}


def test_login_is_encrypted_with_a_key_in_the_secret_service(
    cli: CommandLine, sandbox: Sandbox, keyed: dict[str, str]
) -> None:
    login = cli.process("login", **keyed)
    assert login.returncode == 0, login.stderr
    token = cli.process("token", **keyed)
    assert (token.returncode, token.stderr) == (0, "")
    assert sandbox.is_access_token_live(token.stdout.strip())
    assert all(token.stdout.strip().encode() not in file.read_bytes() for file in cli.directory.iterdir())
    status = cli.process("status", **keyed)
    assert status.returncode == 0, status.stderr
    assert "from the system keyring" in status.stdout
    added = cli.process("key", "--keyring", **keyed)
    assert added.returncode == 0, added.stderr
    assert cli.process("reseal", **keyed).stdout == "default\tencrypted\n"
    assert cli.process("logout", **keyed).returncode == 0
    assert sandbox.live_grants == 0


def test_locked_secret_service_is_7_and_loses_nothing(
    cli: CommandLine, sandbox: Sandbox, keyed: dict[str, str], secret_service: SecretService
) -> None:
    assert cli.process("login", **keyed).returncode == 0
    files = {file.name: file.read_bytes() for file in cli.directory.iterdir()}
    secret_service.lock()
    started = {command: cli.start(command, **keyed) for command in ("status", "token", "refresh", "logout", "login")}
    for command, process in started.items():
        with process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (7, ""), command
        assert "The system keyring " in err
        assert "Unlock it in a desktop session, or set NOTION_OAUTH_ENCRYPTION_KEY to a key" in err
    assert {file.name: file.read_bytes() for file in cli.directory.iterdir()} == files
    assert sandbox.live_grants == 1
