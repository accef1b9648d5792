"""Serves the page of one folder to this machine alone.

It listens on 127.0.0.1, answers to the names of this machine alone (a page of another site whose
name is pointed at 127.0.0.1 gets nothing), and knows four addresses. None of them holds a path: a
picture is asked for by the number of its run and its step.
"""

from __future__ import annotations

import errno
import re
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rewardft.comparisons.watching.page import pictures_of, problem_page, served_page
from rewardft.comparisons.watching.watched import fingerprint, folders_of
from rewardft.errors import RewardftError

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "[::1]")
PATIENCE = 9  # times as long as the page took to make, it is not made again
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """The page of a folder, made anew when something in it has changed; safe between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.guard = folder, threading.Lock()
        self.version, self.text, self.next = "", "", 0.0

    def newest(self) -> str:
        """The version that `page` would give now."""
        with self.guard:
            return self._due()

    def page(self) -> str:
        """The newest page that may be had."""
        with self.guard:
            version = self._due()
            if version != self.version:
                began = time.monotonic()
                self.text, self.version = served_page(self.folder, version), version
                # The report of a large comparison takes seconds, which its runs want too.
                self.next = time.monotonic() + PATIENCE * (time.monotonic() - began)
            return self.text

    def picture(self, run: int, step: int) -> bytes | None:
        """A run's picture of one step; None where there is none in the folder."""
        runs = folders_of(self.folder)
        path = pictures_of(runs[run]).get(step) if run < len(runs) else None
        return None if path is None else path.read_bytes()

    def _due(self) -> str:
        return self.version if time.monotonic() < self.next else fingerprint(self.folder)


class Server(ThreadingHTTPServer):
    """Listens on one port of this machine; 0: any that is free."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.pages = Pages(folder)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise RewardftError(refusal(port, error)) from error

    def server_bind(self) -> None:
        # Not that of HTTPServer, which asks the network for the name of this machine.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"


def refusal(port: int, error: OSError) -> str:
    """Why a port cannot be had, and what to do."""
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
    return f"--port: port {port} of {ADDRESS} {why}. Give another one, or 0 for any that is free."


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: Server
    server_version, sys_version = "rewardft", ""
    timeout = 30  # seconds for a request that does not come to its end

    def do_GET(self) -> None:
        """The page, its version, or a picture."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0].lower()) not in NAMES:
            self.answer(HTTPStatus.MISDIRECTED_REQUEST, b"not a name of this machine\n")
            return
        path = self.path.partition("?")[0]
        try:
            self.answer_path(path)
        except (RewardftError, OSError) as error:
            text = problem_page(str(error)).encode()
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, text, "text/html; charset=utf-8")

    do_HEAD = do_GET

    def answer_path(self, path: str) -> None:
        """The four addresses."""
        pages = self.server.pages
        picture = re.fullmatch(r"/samples/(\d{1,6})/(\d{1,12})\.png", path, re.ASCII)
        if path == "/":
            self.answer(HTTPStatus.OK, pages.page().encode(), "text/html; charset=utf-8")
        elif path == "/version":
            self.answer(HTTPStatus.OK, pages.newest().encode())
        elif path == "/favicon.ico":
            self.answer(HTTPStatus.NO_CONTENT, b"")
        elif picture and (content := pages.picture(int(picture[1]), int(picture[2]))):
            self.answer(HTTPStatus.OK, content, "image/png")
        else:
            self.answer(HTTPStatus.NOT_FOUND, b"no such page\n")

    def answer(
        self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8"
    ) -> None:
        """Send it; a browser that has gone is no error."""
        try:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """A line for each request would hide what the command says."""
