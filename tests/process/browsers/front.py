"""What stands before the two workers: nginx with TLS, or, where nginx is not installed, nothing but this process."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx
import trustme

from tests.support.servers import free_port

HOST = "notion.example"
PUBLIC_URL = f"https://{HOST}"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
START_TIMEOUT = 20.0  # seconds
IMPATIENT = 0.4  # seconds after which the impatient proxy sends a request to the other worker
WORKER_HEADER = "X-Worker"  # selects the worker, 0 or 1; the other one answers if that is down

_CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  map $http_x_worker $pool {{ default both; 0 first; 1 second; }}
  upstream both {{ server 127.0.0.1:{ports[0]} max_fails=0; server 127.0.0.1:{ports[1]} max_fails=0; keepalive 16; }}
  upstream first {{ server 127.0.0.1:{ports[0]} max_fails=0; server 127.0.0.1:{ports[1]} backup max_fails=0; }}
  upstream second {{ server 127.0.0.1:{ports[1]} max_fails=0; server 127.0.0.1:{ports[0]} backup max_fails=0; }}
  ssl_certificate certificate.pem;
  ssl_certificate_key certificate.pem;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto https;
  proxy_set_header X-Worker "";
  proxy_next_upstream error timeout http_502 http_503 non_idempotent;
  server {{
    listen 127.0.0.1:{patient} ssl;
    location / {{ proxy_pass http://$pool; }}
  }}
  server {{
    listen 127.0.0.1:{impatient} ssl;
    location / {{ proxy_pass http://$pool; proxy_read_timeout {timeout}ms; }}
  }}
}}
"""


@dataclass
class Front:
    """Where browsers connect to. `impatient` is the port of a proxy that repeats requests; None without nginx."""

    workers: Sequence[int]  # ports
    patient: int | None = None
    impatient: int | None = None
    context: ssl.SSLContext | None = None
    _turns: Iterator[int] = field(default_factory=lambda: cycle((0, 1)))

    def transport(self, address: str) -> httpx.AsyncBaseTransport:
        """Return a transport that connects from `address` (on loopback), so that each person has another one."""
        if self.context is None:
            return _Direct(self.workers, self._turns, address)
        assert self.patient is not None
        return _ThroughNginx(self.patient, self.impatient or self.patient, self.context, address)


class _ThroughNginx(httpx.AsyncBaseTransport):
    """Connects requests for HOST to nginx; others, for the practice server, are sent as they are."""

    def __init__(self, patient: int, impatient: int, context: ssl.SSLContext, address: str) -> None:
        self._patient, self._impatient = patient, impatient
        self._inner = httpx.AsyncHTTPTransport(verify=context, local_address=address, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == HOST:
            port = self._impatient if request.extensions.get("impatient") else self._patient
            request = _readdressed(request, f"https://127.0.0.1:{port}", sni_hostname=HOST)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Direct(httpx.AsyncBaseTransport):
    """Does what nginx does, without TLS: a worker in turn, and the other one if its connection breaks."""

    def __init__(self, workers: Sequence[int], turns: Iterator[int], address: str) -> None:
        self._workers, self._turns, self._address = workers, turns, address
        self._inner = httpx.AsyncHTTPTransport()  # from 127.0.0.1, as a proxy that the workers trust

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != HOST:
            return await self._inner.handle_async_request(request)
        request.headers["X-Forwarded-Proto"], request.headers["X-Forwarded-For"] = "https", self._address
        first = int(request.headers.pop(WORKER_HEADER, next(self._turns)))
        for worker in (first, 1 - first):
            try:
                return await self._inner.handle_async_request(
                    _readdressed(request, f"http://127.0.0.1:{self._workers[worker]}")
                )
            except httpx.TransportError:
                continue
        return httpx.Response(502, text="Bad Gateway")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _readdressed(request: httpx.Request, origin: str, **extensions: str) -> httpx.Request:
    """Return the same request for another origin. Its Host header stays."""
    target = httpx.URL(origin).copy_with(raw_path=request.url.raw_path)
    extensions = {**request.extensions, **extensions}
    return httpx.Request(request.method, target, headers=request.headers, stream=request.stream, extensions=extensions)


@contextmanager
def front_of(workers: Sequence[int], directory: Path, *, nginx: bool) -> Iterator[Front]:
    """Run nginx, as the user of this process, in `directory`. Raises RuntimeError if it does not start."""
    if not nginx:
        yield Front(workers)
        return
    assert NGINX is not None
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "certificate.pem")
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    patient, impatient = free_port(), free_port()
    text = _CONFIG.format(ports=workers, patient=patient, impatient=impatient, timeout=round(IMPATIENT * 1000))
    (directory / "nginx.conf").write_text(text)
    command = [NGINX, "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
    with (directory / "output.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            for port in (patient, impatient):
                wait_until_listening(process, port)
            yield Front(workers, patient, impatient, context)
        finally:
            process.terminate()
            process.wait()


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when the process accepts connections. Raises RuntimeError if it ends, or if that takes too long."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{Path(str(process.args[0])).name} did not start")  # type: ignore[index]
