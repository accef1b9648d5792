"""Serve a reward over HTTP with the standard library: one computation at a time, and a bounded
queue."""

from __future__ import annotations

import json
import re
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import RewardError
from rewardft.noise import Noise
from rewardft.types import Batch, Plan, Rollout

from .wire import VERSION, Request, WireError, decode_request, encode_answer

RewardFunction = Callable[[Rollout, Batch], Tensor]


class RewardServer(ThreadingHTTPServer):
    """Answers POST with rewards and GET with what is served.

    Args:
        reward: called with samples that are their own decoded form, by one thread at a time.
        name: of the reward, for GET.
        differentiable: whether requests may ask for the gradient.
        address: host and port; port 0 takes a free one (`server_port` tells).
        queue: requests that may wait; one more is answered 503 with Retry-After.
        limit: largest request in bytes.
    """

    daemon_threads = True

    def __init__(
        self,
        reward: RewardFunction,
        name: str,
        differentiable: bool,
        address: tuple[str, int] = ("127.0.0.1", 0),
        queue: int = 16,
        limit: int = 1 << 30,
    ) -> None:
        super().__init__(address, Handler)
        self.reward, self.name, self.differentiable, self.limit = (
            reward,
            name,
            differentiable,
            limit,
        )
        # One more than the queue: the request that is being computed has a place as well.
        self.places, self.one_at_a_time = threading.BoundedSemaphore(queue + 1), threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error; any other has its traceback in the log."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, body: bytes) -> bytes:
        """Raises WireError for a request that cannot be answered."""
        request = decode_request(body)
        if request.gradient and not self.differentiable:
            raise WireError(f"{self.name} has no gradient; ask without it")
        # Two batches at once could exceed the memory that one fits into.
        with self.one_at_a_time:
            return encode_answer(*score(self.reward, request))


def score(reward: RewardFunction, request: Request) -> tuple[Tensor, Tensor | None]:
    """Rewards `(b,)` and, if wanted, d(reward_i)/d(sample_i); 0 where a reward does not apply."""
    device = device_of(reward)
    samples = request.samples.to(device).requires_grad_(request.gradient)
    noise = Noise(0, request.batch.ids, request.batch.epochs, device)
    rollout = Rollout(None, noise, Plan(stop=0), x0=samples, decoder=lambda x: x)
    with torch.set_grad_enabled(request.gradient):
        value = reward(rollout, request.batch)
    check_rewards(value, len(request.batch))
    if not request.gradient:
        return value.detach(), None
    # A sum, as reward i depends on sample i alone; without NaN, which would spread to all.
    (slope,) = torch.autograd.grad(torch.nansum(value), samples)
    return value.detach(), slope


def check_rewards(value: Any, count: int) -> None:
    """Raises RewardError for what no answer can hold."""
    if not isinstance(value, Tensor) or value.shape != (count,):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise RewardError(f"expected one number per sample, shape ({count},); got {got}")
    if value.isinf().any():
        raise RewardError("expected finite rewards, or NaN where one does not apply; got inf")


def device_of(reward: RewardFunction) -> torch.device:
    """The device of a module's weights; the CPU for anything else."""
    parameters = reward.parameters() if isinstance(reward, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: RewardServer
    timeout = 60  # seconds without a byte from the client
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply(
            200,
            {
                "reward": self.server.name,
                "gradient": self.server.differentiable,
                "version": VERSION,
            },
        )

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > self.server.limit:
            self.close_connection = True  # the body stays unread
            self.reply(
                413,
                {
                    "error": f"expected a Content-Length of at most {self.server.limit}, "
                    f"got {length!r}"
                },
            )
            return
        body = self.rfile.read(int(length))
        if not self.server.places.acquire(blocking=False):
            self.reply(503, {"error": "the queue is full"}, {"Retry-After": "1"})
            return
        try:
            self.reply(200, self.server.answer(body))
        except WireError as error:
            self.reply(400, {"error": str(error)})
        except Exception as error:
            # First, so that the traceback is in the server's log when the client hears of it.
            traceback.print_exc()
            # Not 500, after which clients ask again: this failure would come again too.
            self.reply(422, {"error": f"the reward failed: {type(error).__name__}: {error}"})
        finally:
            self.server.places.release()

    def reply(
        self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        # With its length, so that a client knows an answer that was cut off.
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # a client that has gone is no error
            self.close_connection = True
