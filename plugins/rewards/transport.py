"""One HTTP request that always ends: within its time, within its size, and with a sentence for
every way to fail."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult

BUSY = {429, 503}
PASSING = {*BUSY, 408, 500, 502, 504}  # statuses that may change on the next attempt


class Unreachable(Exception):
    """No answer this time; worth another attempt. `retry_after`: seconds that a busy server asks to
    wait."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(Exception):
    """An answer that another attempt would only repeat."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go. `timeout`: seconds for a whole request, however slowly its bytes come."""

    url: SplitResult
    timeout: float
    headers: Mapping[str, str]

    def post(self, body: bytes, limit: int) -> bytes:
        """The body of an answer with status 200 and at most `limit` bytes. Raises Unreachable or
        Refused."""
        connection = self.connect()
        deadline = Deadline(connection, self.timeout)
        try:
            data = self.exchange(connection, deadline, body, limit)
            if deadline.passed:  # what was read may be cut off
                raise TimeoutError
            return data
        except (OSError, http.client.HTTPException, ValueError, Unreachable) as error:
            # A socket that was shut shows as many errors; the time-out is what they mean.
            if deadline.passed or isinstance(error, TimeoutError):
                raise Unreachable(f"no complete answer within {self.timeout:g} s") from error
            raise (
                error if isinstance(error, Unreachable) else Unreachable(describe(error))
            ) from error
        finally:
            deadline.cancel()
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        kind = (
            http.client.HTTPSConnection
            if self.url.scheme == "https"
            else http.client.HTTPConnection
        )
        assert self.url.hostname is not None
        return kind(self.url.hostname, self.url.port, timeout=self.timeout)

    def exchange(
        self, connection: http.client.HTTPConnection, deadline: Deadline, body: bytes, limit: int
    ) -> bytes:
        path = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            # A connection per request: a server that restarts in between goes unnoticed.
            "Connection": "close",
            **self.headers,
        }
        connection.connect()
        deadline.socket = connection.sock
        # The answer may say why it was not read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise failure(answer)
        length = (answer.headers.get("Content-Length") or "0").strip()
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise Refused(f"expected a Content-Length that is a number, got {length!r:.60}")
        announced = int(length)
        # One byte more than allowed shows that there is more.
        data = b"" if announced > limit else answer.read(limit + 1)
        if max(announced, len(data)) > limit:
            size = f"{announced} bytes" if announced else "more than that"
            raise Refused(
                f"expected at most {limit} bytes for this many samples, the answer has {size}"
            )
        if announced > len(data):
            raise Unreachable(f"the answer was cut off after {len(data)} of {announced} bytes")
        return data


class Deadline:
    """Ends a connection when its time is up, whatever it waits for: connecting, headers or body,
    byte by byte."""

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.connection, self.passed = connection, False
        # Kept here: the connection forgets it when it reads the last answer
        self.socket: socket.socket | None = None
        self.timer = threading.Timer(seconds, self.hang_up)
        self.timer.daemon = True
        self.timer.start()

    def hang_up(self) -> None:
        self.passed = True
        # shutdown and not close: it wakes the thread that waits for bytes.
        open_socket = self.socket or self.connection.sock
        if open_socket is not None:
            with contextlib.suppress(OSError):  # the other side may have hung up already
                open_socket.shutdown(socket.SHUT_RDWR)

    def cancel(self) -> None:
        self.timer.cancel()


def failure(answer: http.client.HTTPResponse) -> Exception:
    """What a status other than 200 means, with the beginning of what the server says."""
    said = answer.read(400).decode("utf-8", "replace").strip()
    text = f"status {answer.status} {answer.reason}".strip() + (f": {said[:300]}" if said else "")
    if answer.status in PASSING:
        return Unreachable(text, retry_after(answer.headers.get("Retry-After")))
    if 300 <= answer.status < 400:
        text += f" (redirects are not followed; it points to {answer.headers.get('Location')})"
    return Refused(text)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None without one, or with
    neither."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
        return max(date.timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):  # not a date, or an offset beyond a day
        return None


def describe(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
