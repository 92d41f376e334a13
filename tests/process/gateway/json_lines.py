"""`notion-oauth mcp` as its client sees it: a process, lines of JSON on its standard input and output."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.process.gateway.connecting import Home, wait_until

LEGACY = "2025-11-25"
CURRENT = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": CURRENT,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"},
}


class Gateway:
    """A gateway on stdio. It reads the output all the time, unless `reads` is False."""

    def __init__(self, process: subprocess.Popen[str], log: Path, *, reads: bool) -> None:
        self.process, self._log = process, log
        self.lines: list[str] = []
        self._number = 0
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # it was closed
            for line in self.process.stdout:
                self.lines.append(line)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages so far. Fails if a line is not JSON-RPC."""
        documents = [json.loads(line) for line in self.lines]
        messages = [each for found in documents for each in (found if isinstance(found, list) else [found])]
        assert all(message["jsonrpc"] == "2.0" for message in messages)
        return messages

    def announced(self, method: str) -> int:
        """How many notifications of this kind have arrived."""
        return sum(message.get("method") == method for message in self.messages)

    def send(self, message: Any) -> None:
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def start(self, method: str, **params: Any) -> int:
        """Send a request, and return its id."""
        self._number += 1
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        return self._number

    def answer(self, number: int, timeout: float = 20) -> dict[str, Any]:
        """The response to a request: with `result` or `error`."""

        def find() -> dict[str, Any] | None:
            found = [each for each in self.messages if each.get("id") == number and "method" not in each]
            assert len(found) <= 1
            return found[0] if found else None

        response: dict[str, Any] = wait_until(find, timeout)
        return response

    def request(self, method: str, timeout: float = 20, **params: Any) -> dict[str, Any]:
        return self.answer(self.start(method, **params), timeout)

    def call(self, name: str, timeout: float = 20, **arguments: Any) -> dict[str, Any]:
        return self.request("tools/call", timeout, name=name, arguments=arguments)

    def initialize(self, **capabilities: Any) -> dict[str, Any]:
        info = {"name": "a test", "version": "1"}
        answer = self.request("initialize", protocolVersion=LEGACY, capabilities=capabilities, clientInfo=info)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        result: dict[str, Any] = answer["result"]
        return result

    def tools(self) -> set[str]:
        return {tool["name"] for tool in self.request("tools/list")["result"]["tools"]}

    def close(self) -> None:
        """Close its standard input, which tells it to end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, timeout: float) -> int:
        """Its exit code. Fails if it has not ended in time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise AssertionError(f"it has not ended after {timeout} seconds") from None


def text_of(answer: dict[str, Any]) -> str:
    """The text of a tool's result or of an error, which a person or a model can read."""
    if "error" in answer:
        return str(answer["error"]["message"])
    return " ".join(content.get("text", "") for content in answer["result"]["content"])


def failed(answer: dict[str, Any]) -> bool:
    return "error" in answer or bool(answer["result"].get("isError"))


@contextmanager
def gateway(
    home: Home, *options: str, reads: bool = True, launch: Callable[..., subprocess.Popen[str]] | None = None
) -> Generator[Gateway]:
    """Run `notion-oauth mcp` during the block."""
    log = home.directory / "mcp.log"
    with log.open("a") as stderr:
        process = (launch or home.start)(
            "mcp", *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=1
        )
    with process:
        try:
            yield Gateway(process, log, reads=reads)
        finally:
            process.kill()
