"""`vlm_judge`: a vision-language model gives each sample a score, asked over HTTP in the form of
OpenAI's chat completions, which most servers of such models speak."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rewardft.errors import CheckpointError, ComponentError, RewardError
from rewardft.files.atomic import make_folder, write_text
from rewardft.files.json_text import encode, read_object
from rewardft.recipe.bounds import Count, NotNegative, Positive
from rewardft.types import Batch, Rollout

from .asking import Asking, Interrupted, Patience
from .images import pixels_of
from .remote import check_url, read_token
from .transport import Endpoint, Refused, Unreachable
from .wire import encode_png

LOG = logging.getLogger(__name__)
QUESTION = (
    "Does this picture show what the text says, and is it a good picture? The text: {prompt}\n"
    "End your answer with one line: SCORE: a number from {lowest} to {highest}."
)
# No range, fraction or share, and no decimal comma: a number cut short is another one.
SCORE = re.compile(
    r"score[\W_]*?[:=][\s*_`]*(-?[0-9]+(?:\.[0-9]+)?)"
    r"(?![ \t*_`]*[-\u2013\u2014\u2212/%]|[.,]?[0-9])",
    re.IGNORECASE,
)
LONGEST = 2**20  # bytes of an answer


class Unreadable(Exception):
    """An answer without one score in it; the text says what it holds instead."""


class VlmJudge:
    """A vision-language model's score of each sample, (score - lowest) / (highest - lowest): in
    [0, 1].

    An answer that holds no score, two different ones, or one out of range is asked for again, as is
    a request that gets no answer; what is still unread after `attempts` stops the run, or is NaN
    (not applicable). A failure is never a score. Equal questions are asked once.

    Args:
        url: of the server's chat completions, such as http://127.0.0.1:8000/v1/chat/completions.
        model: the name that the server has for it.
        question: the text beside the picture; {prompt} is the column of the batch, and {lowest} and
            {highest} the range. It must ask for a line `SCORE: number`.
        column: of the batch, for {prompt}.
        lowest, highest: the range of the scores.
        max_tokens: of an answer.
        concurrency: requests in flight at a time.
        timeout: seconds for one request as a whole.
        attempts: how often a question is asked before it counts as failed.
        backoff: seconds before the second attempt; twice that before the third, and so on.
        max_wait: longest pause in seconds, whatever a busy server asks for.
        on_failure: `stop` the run, or continue with `nan` for that sample.
        token_env: name of an environment variable whose value is sent as a bearer token.
        cache: folder in which scores are kept for later runs; null: they are forgotten.
    """

    provides: frozenset[str] = frozenset()
    space: str = "pixels"
    range = (0.0, 1.0)

    def __init__(
        self,
        url: str,
        model: str,
        question: str = QUESTION,
        column: str = "prompt",
        lowest: float = 0.0,
        highest: float = 10.0,
        max_tokens: Count = 512,
        concurrency: Count = 4,
        timeout: Positive = 120.0,
        attempts: Count = 4,
        backoff: NotNegative = 1.0,
        max_wait: NotNegative = 60.0,
        on_failure: Literal["stop", "nan"] = "stop",
        token_env: str | None = None,
        cache: Path | None = None,
    ) -> None:
        check_url(url, "vlm_judge")
        if not lowest < highest:
            raise ComponentError(
                f"vlm_judge: expected lowest below highest, got {lowest:g} and {highest:g}"
            )
        token = {} if token_env is None else {"Authorization": f"Bearer {read_token(token_env)}"}
        self.url, self.endpoint = url, Endpoint(urlsplit(url), timeout, token)
        self.model, self.question, self.column = model, question, column
        self.lowest, self.highest, self.max_tokens = lowest, highest, max_tokens
        self.concurrency, self.on_failure, self.cache = concurrency, on_failure, cache
        self.patience = Patience(attempts, backoff, max_wait)
        self.known: dict[str, float] = {}

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        return self.begin_scoring(rollout, batch).result()

    def begin_scoring(self, rollout: Rollout, batch: Batch) -> Asking[float, Tensor]:
        """Ask without waiting for the answers; equal questions once."""
        pixels = pixels_of(rollout, "vlm_judge").detach()
        if "{prompt}" in self.question and self.column not in batch:
            raise RewardError(
                f"vlm_judge: the data set has no column {self.column!r} for the question; it "
                f"gives: {', '.join(batch.columns) or 'no columns'}"
            )
        bodies = [self.body(sample, batch, i) for i, sample in enumerate(pixels)]
        unique = list(dict.fromkeys(bodies))

        def values(scores: list[float]) -> Tensor:
            of = dict(zip(unique, scores))
            scaled = [(of[body] - self.lowest) / (self.highest - self.lowest) for body in bodies]
            return torch.tensor(scaled, device=pixels.device)

        calls = [partial(self.judge, body) for body in unique]
        return Asking(calls, self.concurrency, "vlm-judge", values)

    def body(self, sample: Tensor, batch: Batch, row: int) -> bytes:
        """The request for one sample `(3, h, w)`."""
        # Replaced and not formatted: a prompt may have braces of its own.
        text = self.question.replace("{lowest}", f"{self.lowest:g}")
        text = text.replace("{highest}", f"{self.highest:g}")
        if "{prompt}" in text:
            text = text.replace("{prompt}", str(batch[self.column][row]))
        picture = {"url": f"data:image/png;base64,{encode_png(sample)}"}
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": picture}]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        return json.dumps(request, sort_keys=True).encode()

    def judge(self, body: bytes, stop: threading.Event) -> float:
        """The score of a request, from the cache where it is known; NaN where `on_failure` says."""
        # The range too: a question of one's own need not name it, and 4 of 5 is not 4 of 10.
        place = f"{self.url}\0{self.lowest!r}\0{self.highest!r}\0"
        key = hashlib.sha256(place.encode() + body).hexdigest()
        file = None if self.cache is None else self.cache / f"{key}.json"
        if key not in self.known and file is not None and file.is_file():
            self.known[key] = self.kept(file)
        if key in self.known:
            return self.known[key]
        try:
            score = self.patience.ask(partial(self.ask, body), (Unreachable, Unreadable), stop)
        except (Refused, Interrupted) as error:
            # What is refused once will be refused again: nan would hide a wrong model or token.
            raise RewardError(f"vlm_judge {self.url}: {error}") from error
        except (Unreachable, Unreadable) as error:
            tries = self.patience.attempts
            message = f"vlm_judge {self.url}: no score in {tries} attempts; {error}"
            if self.on_failure == "stop":
                raise RewardError(message) from error
            LOG.warning("%s; going on with NaN", message)
            return float("nan")
        self.known[key] = score
        if file is not None:
            make_folder(file.parent)
            write_text(file, encode({"score": score, "model": self.model}))
        return score

    def kept(self, file: Path) -> float:
        """The score of an earlier run. Raises CheckpointError for what is none: a number that was
        put there by hand, or NaN, would be learned from."""
        how = "Delete it: the question is asked again."
        score: float = read_object(file, {"score": float}, how)["score"]
        if not self.lowest <= score <= self.highest:
            raise CheckpointError(
                f"{file}: expected a score from {self.lowest:g} to {self.highest:g}, got "
                f"{score:g}. {how}"
            )
        return score

    def ask(self, body: bytes) -> float:
        """One request."""
        return read_score(self.endpoint.post(body, LONGEST), self.lowest, self.highest)


def read_score(answer: bytes, lowest: float, highest: float) -> float:
    """The one score of an answer. Raises Unreadable for anything else."""
    try:
        content: Any = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Unreadable(f"expected a chat completion, got {answer[:200]!r}") from None
    if not isinstance(content, str):
        raise Unreadable(f"expected a text, got {content!r:.200}")
    # Two that are equal say the same.
    found = {float(number) for number in SCORE.findall(content)}
    wanted = f"expected one line `SCORE: number from {lowest:g} to {highest:g}`"
    if len(found) != 1 or not lowest <= min(found) <= highest:
        said = content if len(content) <= 200 else f"...{content[-200:]}"
        raise Unreadable(f"{wanted}, got {said!r}")
    return found.pop()
