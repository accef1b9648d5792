"""Local servers that misbehave on purpose, and a well-behaved one."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rewardft_plugins.rewards.server import RewardServer


@contextlib.contextmanager
def running(server):
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def serve(reward, differentiable=True, **options):
    return running(RewardServer(reward, "served", differentiable, **options))


def address(server):
    return f"http://127.0.0.1:{server.server_port}/"


class Scripted(ThreadingHTTPServer):
    """Answers request n with `script[n]`, the last one for ever: (status, headers, body), or a function of the request."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), ScriptedHandler)
        self.script, self.requests, self.times, self.busiest = script, [], [], 0
        self.lock, self.active = threading.Lock(), 0


class ScriptedHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append((body, dict(self.headers)))
            self.server.times.append(time.monotonic())
            self.server.active += 1
            self.server.busiest = max(self.server.busiest, self.server.active)
        answer = self.server.script[min(number, len(self.server.script) - 1)]
        status, headers, content = answer(body) if callable(answer) else answer
        with self.server.lock:
            self.server.active -= 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Quiet."""


def says(content, status=200, **headers):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, data


@contextlib.contextmanager
def raw_server(send):
    """Accepts connections, reads a request, and calls `send(connection)`; yields the url."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                received = b""
                while b'"columns"' not in received:
                    received += connection.recv(65536)
                send(connection, stop)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
