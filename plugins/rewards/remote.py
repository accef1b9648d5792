"""`remote`: a reward that another process computes, asked by HTTP."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rewardft.errors import ComponentError, RewardError
from rewardft.recipe.bounds import Count, Positive
from rewardft.types import Batch, Rollout, micro_slices

from .asking import Asking, Interrupted, Patience
from .images import pixels_of
from .transport import Endpoint, Refused, Unreachable
from .wire import Payload, WireError, decode_answer, encode_request

LOG = logging.getLogger(__name__)
Answer = tuple[Tensor, Tensor | None]


class Remote:
    """A reward behind HTTP; docs/remote-reward.md has the wire format and a short server.

    The batch is sent in requests of at most `batch_size` samples, at most `concurrency` of them at
    a time. A request that gets no answer (no connection, time-out, cut off, status 408, 429, 5xx)
    is sent again, `attempts` times in all, after `backoff`, twice, four times ... seconds, or after
    what a busy server asks for in Retry-After; never after more than `max_wait`. An answer that
    breaks the format stops the run at once: the next one would too.

    Args:
        url: http or https address that takes POST requests.
        gradient: ask for the gradient with respect to the samples too, so that algorithms that
            follow the reward's gradient can use it.
        space: send decoded `pixels`, or the model's own `latents`.
        payload: `safetensors` sends exact float32 numbers, `png` 8-bit pictures, a tenth of the
            size.
        columns: columns of the batch that are sent along; null: `prompt` where the data set has it.
        batch_size: samples per request; null: the whole batch.
        concurrency: requests in flight at a time.
        timeout: seconds for one request as a whole.
        attempts: how often a request is sent before it counts as failed.
        backoff: seconds before the second attempt; twice that before the third, and so on.
        max_wait: longest pause in seconds, whatever a server asks for.
        on_failure: when no attempt is answered, `stop` the run, or continue with `nan` (not
            applicable) for those samples.
        token_env: name of an environment variable whose value is sent as a bearer token.
    """

    provides: frozenset[str] = frozenset()
    space: str = "pixels"
    range = (-float("inf"), float("inf"))

    def __init__(
        self,
        url: str,
        gradient: bool = False,
        space: Literal["pixels", "latents"] = "pixels",
        payload: Payload = "safetensors",
        columns: list[str] | None = None,
        batch_size: Count | None = None,
        concurrency: Count = 4,
        timeout: Positive = 60.0,
        attempts: Count = 5,
        backoff: Positive = 1.0,
        max_wait: Positive = 60.0,
        on_failure: Literal["stop", "nan"] = "stop",
        token_env: str | None = None,
    ) -> None:
        # Now and not at the first batch, which comes after the model has been loaded.
        check_options(
            url,
            space,
            payload,
            min(concurrency, attempts, batch_size or 1),
            min(timeout, backoff, max_wait),
        )
        headers = {"Authorization": f"Bearer {read_token(token_env)}"} if token_env else {}
        self.url, self.endpoint = url, Endpoint(urlsplit(url), timeout, headers)
        self.gradient, self.space, self.payload, self.columns = gradient, space, payload, columns
        self.batch_size, self.concurrency, self.on_failure = batch_size, concurrency, on_failure
        self.patience = Patience(attempts, backoff, max_wait)

    @staticmethod
    def tags(gradient: bool = False, **_: Any) -> frozenset[str]:
        return frozenset({"reward_gradient"}) if gradient else frozenset()

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        samples = self.samples_of(rollout)
        # Logs and evaluations need no gradient, which is most of an answer.
        if not (self.gradient and samples.requires_grad and torch.is_grad_enabled()):
            return self.begin_scoring(rollout, batch).result()
        value: Tensor = AskedElsewhere.apply(
            samples, lambda x: Asking(*self.requests(x, batch, gradient=True), both).result()
        )
        return value

    def begin_scoring(self, rollout: Rollout, batch: Batch) -> Asking[Answer, Tensor]:
        """Send the samples without waiting for their values, which come without a gradient."""
        samples = self.samples_of(rollout).detach()
        # Moved here: the threads do nothing on the device, where the next samples are drawn.
        asked = self.requests(samples.cpu(), batch.to(torch.device("cpu")), gradient=False)
        return Asking(*asked, lambda answers: both(answers)[0].to(samples.device))

    def samples_of(self, rollout: Rollout) -> Tensor:
        x0: Tensor = rollout.x0
        return pixels_of(rollout, "remote") if self.space == "pixels" else x0.float()

    def requests(
        self, samples: Tensor, batch: Batch, gradient: bool
    ) -> tuple[list[Callable[[threading.Event], Answer]], int, str]:
        """What to ask, and how `Asking` is to."""
        parts = [
            partial(self.ask_part, samples[rows], batch.select(rows), gradient)
            for rows in micro_slices(len(batch), self.batch_size)
        ]
        return [*parts], self.concurrency, "remote-reward"

    def ask_part(
        self, samples: Tensor, batch: Batch, gradient: bool, stop: threading.Event
    ) -> Answer:
        columns = {name: batch[name] for name in self.columns_of(batch)}
        body = encode_request(samples, batch, columns, self.payload, gradient)
        # Keeps an endless answer out of memory: 4 bytes a number, doubled as base64 adds a third.
        limit = 65536 + 64 * len(batch) + (2 * 4 * samples.numel() if gradient else 0)
        send = partial(self.endpoint.post, body, limit)
        try:
            answer = self.patience.ask(send, (Unreachable,), stop)
            return decode_answer(answer, samples.shape, gradient)
        except (WireError, Refused, Interrupted) as error:
            raise RewardError(f"{self.where(batch)}: {error}") from error
        except Unreachable as error:
            count = self.patience.attempts
            tries = f"{count} attempts" if count > 1 else "1 attempt"
            message = f"{self.where(batch)}: no answer in {tries}; the last: {error}"
            if self.on_failure == "stop":
                raise RewardError(
                    f"{message}\nIs the server running (`rewardft rewards serve`)? `on_failure: "
                    "nan` continues without it."
                ) from error
            LOG.warning("%s; going on with NaN", message)
            # NaN is `not applicable`; a zero would be a reward like any other.
            rewards = torch.full((len(batch),), float("nan"))
            return rewards, torch.zeros_like(samples, device="cpu") if gradient else None

    def columns_of(self, batch: Batch) -> list[str]:
        if self.columns is None:
            return ["prompt"] if "prompt" in batch else []
        missing = [name for name in self.columns if name not in batch]
        if missing:
            raise RewardError(
                f"remote: the data set has no column {', '.join(missing)} to send to {self.url}; "
                f"it gives: {', '.join(batch.columns) or 'no columns'}"
            )
        return self.columns

    def where(self, batch: Batch) -> str:
        shown = ", ".join(batch.ids[:3]) + (f" and {len(batch) - 3} more" if len(batch) > 3 else "")
        return f"remote reward {self.url} (samples {shown})"


def both(answers: list[Answer]) -> Answer:
    """Rewards `(b,)` and, if there are any, gradients like the samples."""
    slopes = [slope for _, slope in answers if slope is not None]
    return torch.cat([rewards for rewards, _ in answers]), torch.cat(slopes) if slopes else None


class AskedElsewhere(torch.autograd.Function):
    """Rewards whose gradient comes with them."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, ask: Callable[[Tensor], Answer]) -> Tensor:
        rewards, slope = ask(samples.detach())
        assert slope is not None
        ctx.save_for_backward(slope.to(samples))
        return rewards.to(samples.device)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return cotangents[0].view(-1, *[1] * (slope.ndim - 1)) * slope, None


def check_options(url: str, space: str, payload: str, least: int, shortest: float) -> None:
    """Raises ComponentError for options that cannot work."""
    check_url(url, "remote")
    if space == "latents" and payload == "png":
        raise ComponentError(
            "remote: latents are not pictures; use `payload: safetensors` with `space: latents`"
        )
    if least < 1 or not shortest > 0:
        raise ComponentError(
            "remote: expected concurrency, attempts and batch_size of at least 1, and timeout, "
            "backoff and max_wait above 0"
        )


def check_url(url: str, who: str) -> None:
    """Raises ComponentError, in the name of the reward `who`, for what is no address of a
    server."""
    try:
        parts = urlsplit(url)
        port = parts.port  # raises unless it is a number that a port can have
    except ValueError:
        parts, port = urlsplit(""), 0
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise ComponentError(
            f"{who}: expected a url such as http://127.0.0.1:8000/, got {url!r:.200}"
        )
    # A url is shown in errors and manifests, where a password must not stand.
    if parts.username or parts.password:
        raise ComponentError(
            f"{who}: the url holds a user name or password; name the token's variable in "
            "`token_env`"
        )


def read_token(name: str) -> str:
    token = os.environ.get(name, "") if name.isprintable() and "=" not in name else ""
    if not token:
        raise ComponentError(
            f"remote: token_env names the environment variable {name}, which is not set"
        )
    if not re.fullmatch(r"[!-~]+", token):  # and it is never quoted
        raise ComponentError(
            f"remote: the token in the environment variable {name} has a blank, a line break or a "
            "character that is not ASCII; a token has none. Was it read from a file with a line "
            "break at its end?"
        )
    return token
