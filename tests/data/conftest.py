"""Servers on loopback that the loader's tests read from: a web server whose failures are arranged, and S3."""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class WebFolder:
    """A folder behind http, with byte ranges.

    Attributes:
        failures: how the next answers fail: a status, or "cut" for a body that ends too early.
        requests: paths and ranges asked for, in order.
        knows_ranges: whether a range is honoured, or the whole file sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: deque[int | str] = deque()
        self.requests: list[tuple[str, str | None]] = []
        self.knows_ranges = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(web) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, *, with_body: bool) -> None:
                web.requests.append((self.path, self.headers.get("Range")))
                path = web.folder / self.path.lstrip("/")
                failure = web.failures.popleft() if web.failures and with_body else None
                if isinstance(failure, int) or not path.is_file():
                    self.send_response(failure if isinstance(failure, int) else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content, status, size = path.read_bytes(), 200, path.stat().st_size
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
                if asked and web.knows_ranges:
                    start, stop = int(asked[1]), int(asked[2] or size - 1) + 1
                    if start >= size:
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    content, status = content[start:stop], 206
                    self.send_response(status)
                    self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{size}")
                else:
                    self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_body:
                    self.wfile.write(content[: len(content) // 2] if failure == "cut" else content)
                self.close_connection = failure == "cut"

        return Handler


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[WebFolder]:
    folder = tmp_path / "web"
    folder.mkdir()
    web = WebFolder(folder)
    yield web
    web.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server; skips where the packages for it are not installed."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'hh-train[s3]'")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()
