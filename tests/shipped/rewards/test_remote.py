"""The reward `remote` against real local servers: values, gradients, patience, and answers of every bad kind."""

import base64
import email.utils
import inspect
import json
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import torch
from rewardft_plugins.rewards.remote import Remote
from rewardft_plugins.rewards.statistics import symmetry
from rewardft_plugins.rewards.wire import WireError, decode_request, encode_request, encode_tensor
from safetensors.torch import save

from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward, run_recipe
from rewardft.testing.rewards import make_rollout
from tests import processes
from tests.documents import blocks, files_in, read, table_rows, words
from tests.processes import wait_for

from .pictures import batch_of, noise_pictures
from .servers import Scripted, address, raw_server, running, says, serve

PIXELS = noise_pictures(4, 6, 8)
BATCH = batch_of(4, prompt=["a", "b", "c", "d"], label=torch.arange(4))
FAST = {"attempts": 2, "backoff": 0.01, "timeout": 60.0}


def score(reward, pixels=PIXELS, batch=BATCH):
    with torch.no_grad():
        return reward(make_rollout(pixels, batch), batch)


def labelled(rollout, batch):
    """Depends on pixels and on columns; does not apply to the prompt b."""
    value = rollout.decoded.square().flatten(1).mean(1) + torch.tensor(batch["label"])
    return torch.where(torch.tensor([p == "b" for p in batch["prompt"]]), float("nan"), value)


# -- a server that works -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 1}, {"batch_size": 3, "concurrency": 1}], ids=str
)
def test_values_are_those_of_the_served_reward(options):
    with serve(labelled) as server:
        got = score(Remote(address(server), columns=["prompt", "label"], **options))
    expected = PIXELS.square().flatten(1).mean(1) + torch.arange(4)
    assert got.isnan().tolist() == [False, True, False, False]
    assert torch.equal(got[[0, 2, 3]], expected[[0, 2, 3]]), "float32 there and back, bit by bit"


def test_the_gradient_comes_with_the_reward():
    with serve(symmetry) as server:
        remote = Remote(address(server), gradient=True, batch_size=3)
        leaves = [PIXELS.clone().requires_grad_() for _ in range(2)]
        weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
        for leaf, reward in zip(leaves, (remote, symmetry)):
            ((reward(make_rollout(leaf, BATCH), BATCH) * weights).sum()).backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


def test_the_contract_is_kept_with_and_without_gradient():
    with serve(symmetry) as server:
        report = check_reward(
            Remote(address(server), gradient=True), PIXELS, BATCH, differentiable=True
        )
        assert report.gradient_error < 0.01
        check_reward(Remote(address(server)), PIXELS, BATCH, differentiable=False)
    assert (
        Remote.tags(gradient=True) == {"reward_gradient"}
        and Remote.tags() == Remote.provides == frozenset()
    )


def test_latents_are_sent_as_they_are():
    latents = torch.randn(2, 5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with serve(lambda rollout, batch: rollout.x0.flatten(1).sum(1)) as server:
        got = score(Remote(address(server), space="latents"), latents, batch_of(2))
    assert torch.equal(got, latents.flatten(1).sum(1))


def test_png_sends_whole_bytes():
    with serve(symmetry) as server:
        got = score(Remote(address(server), payload="png"))
    rounded = (PIXELS * 255).round() / 255
    assert torch.allclose(got, score(symmetry, rounded), atol=1e-6)
    assert not torch.allclose(got, score(symmetry), atol=1e-6)


def test_a_reward_without_gradient_says_so():
    with serve(symmetry, differentiable=False) as server, pytest.raises(RewardError) as caught:
        leaf = PIXELS.clone().requires_grad_()
        Remote(address(server), gradient=True)(make_rollout(leaf, BATCH), BATCH)
    assert str(caught.value) == (
        f"remote reward {address(server)} (samples s0, s1, s2 and 1 more): "
        'status 400 Bad Request: {"error": "served has no gradient; ask without it"}'
    )


def test_a_reward_that_raises_over_there_is_reported_here(capfd):
    def broken(rollout, batch):
        raise ValueError("no such model")

    with (
        serve(broken) as server,
        pytest.raises(
            RewardError,
            match=r'status 422 .*: \{"error": "the reward failed: ValueError: no such model"\}',
        ),
    ):
        score(Remote(address(server), **FAST))
    assert "ValueError: no such model" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(4, 1), "expected one number per sample, shape (4,); got (4, 1)"),
        ([0.5] * 4, "expected one number per sample, shape (4,); got list"),
        (
            torch.full((4,), math.inf),
            "expected finite rewards, or NaN where one does not apply; got inf",
        ),
    ],
)
def test_a_reward_that_gives_no_rewards_over_there_is_reported_here(capfd, value, said):
    with serve(lambda rollout, batch: value) as server, pytest.raises(RewardError) as caught:
        score(Remote(address(server), **FAST))
    assert f'{{"error": "the reward failed: RewardError: {said}"}}' in str(caught.value)
    capfd.readouterr()


def test_a_client_that_has_gone_is_no_error(capfd):
    """It hangs up before the answer, which nobody then reads."""
    gone, asked = threading.Event(), threading.Event()

    def slow(rollout, batch):
        asked.set()
        gone.wait(10)
        return rollout.decoded.flatten(1).mean(1)

    body = json.dumps(GOOD).encode()
    with serve(slow) as server:
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert asked.wait(10)
        gone.set()
        assert score(Remote(address(server), **FAST)).shape == (4,)
    assert "Traceback" not in capfd.readouterr().err


def test_the_command_serves_a_registered_reward():
    words = ["serve", "mean_brightness", "--set", "target=0.25", "--port", "0"]
    process = processes.start("rewards", *words)
    wait_for(lambda: "serving" in process.stdout())
    try:
        url = re.search(
            r"serving mean_brightness at (http://127\.0\.0\.1:\d+/) ", process.stdout()
        ).group(1)
        got = score(Remote(url), torch.full((2, 3, 4, 4), 0.75), batch_of(2))
    finally:
        process.terminate()
        process.wait()
    assert got.tolist() == pytest.approx([-0.25, -0.25])


def test_the_command_explains_what_it_cannot_serve():
    result = processes.run("rewards", "serve", "mean_brightness", "--set", "target=bright")
    assert result.returncode == 2
    assert result.stderr.strip() == (
        "error: reward 'mean_brightness': 1 problem\n"
        "  - option 'target' of reward 'mean_brightness': expected a number or null, got 'bright' (text)."
    )


# -- patience ----------------------------------------------------------------------------------------------------------


def rewards_for(body):
    return says({"rewards": [float(len(i)) for i in body["ids"]]})


def test_a_busy_server_is_asked_again_when_it_says():
    soon = lambda body: says(
        "busy", 503, Retry_After=email.utils.formatdate(time.time() + 1, usegmt=True)
    )
    with running(Scripted(says("busy", 429, Retry_After="1"), soon, rewards_for)) as server:
        assert score(Remote(address(server), backoff=30.0)).tolist() == [2.0] * 4
    first, second, third = server.times
    assert 1.0 <= second - first < 25 and third - second < 25, "its own 30 seconds were not waited"


def test_pauses_double_and_have_a_limit():
    with running(Scripted(says(b"", 500))) as server, pytest.raises(RewardError):
        score(Remote(address(server), attempts=12, backoff=0.05, max_wait=0.15))
    pauses = [b - a for a, b in zip(server.times, server.times[1:])]
    assert len(pauses) == 11
    assert all(least <= pause for least, pause in zip([0.05, 0.1, *[0.15] * 9], pauses))
    assert max(pauses) < 40, "the last of those that double would be 51 s"


def test_at_most_so_many_requests_are_under_way():
    three = threading.Barrier(3)

    def slowly(body):
        three.wait(300)
        time.sleep(0.1)  # for a fourth, which must not come
        return rewards_for(body)

    pixels, batch = noise_pictures(12, 4, 4), batch_of(12)
    with running(Scripted(slowly)) as server:
        assert score(Remote(address(server), batch_size=1, concurrency=3), pixels, batch).shape == (
            12,
        )
    assert server.busiest == 3 and len(server.requests) == 12


def test_one_broken_answer_ends_the_waiting_of_the_others():
    def first_waits(body):
        return says(b"", 503) if "s0" in body["ids"] else says([1])

    with (
        running(Scripted(first_waits)) as server,
        pytest.raises(RewardError, match=r"\(samples s3\): expected a JSON object, got a list"),
    ):
        score(Remote(address(server), batch_size=3, backoff=30.0, concurrency=2))
    assert len(server.requests) <= 2, "the one that waits is not asked for again"


def test_a_full_queue_is_answered_with_come_back_later():
    gate, entered = threading.Event(), threading.Event()

    def waiting(rollout, batch):
        entered.set()
        gate.wait(300)
        return rollout.decoded.flatten(1).mean(1)

    with serve(waiting, queue=1) as server:
        remote = Remote(address(server), batch_size=1, concurrency=4, attempts=20)
        threading.Timer(0.5, gate.set).start()
        assert torch.allclose(score(remote), PIXELS.flatten(1).mean(1))
    with serve(waiting, queue=0) as server:
        gate.clear()
        entered.clear()
        threading.Thread(target=lambda: score(Remote(address(server))), daemon=True).start()
        assert entered.wait(300)
        with pytest.raises(
            RewardError, match=r'no answer in 1 attempt; the last: status 503 .*"the queue is full"'
        ):
            score(Remote(address(server), attempts=1))
        gate.set()
        time.sleep(0.2)


def test_the_token_is_sent_and_not_written_down(monkeypatch):
    monkeypatch.setenv("SCORER_TOKEN", "s3cret")
    with running(Scripted(rewards_for)) as server:
        score(Remote(address(server), token_env="SCORER_TOKEN"))
    assert server.requests[0][1]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv("SCORER_TOKEN")
    with pytest.raises(
        ComponentError,
        match="remote: token_env names the environment variable SCORER_TOKEN, which is not set",
    ):
        Remote(address(server), token_env="SCORER_TOKEN")


# -- hostile and broken answers ----------------------------------------------------------------------------------------


def where(url):
    return f"remote reward {url} (samples s0, s1, s2 and 1 more): "


def failing(send_or_script, **options):
    """(url, message) of the error that an answer leads to."""
    if callable(send_or_script):
        with raw_server(send_or_script) as url, pytest.raises(RewardError) as caught:
            score(Remote(url, **{**FAST, **options}))
        return url, str(caught.value)
    with running(Scripted(*send_or_script)) as server, pytest.raises(RewardError) as caught:
        score(Remote(address(server), **{**FAST, **options}))
    assert len(server.requests) == 1, "a broken answer is not asked for again"
    return address(server), str(caught.value)


BROKEN = {
    "count": (says({"rewards": [1, 2, 3]}), "expected 4 rewards, one per sample, got 3"),
    "no rewards": (
        says({"scores": [1], "time": 3}),
        "expected `rewards`, a list of numbers; the answer has: scores, time",
    ),
    "text": (
        says({"rewards": [1, "2", 3, 4]}),
        "expected rewards that are finite numbers, or null where one does not apply, got '2'",
    ),
    "truth": (
        says({"rewards": [1, True, 3, 4]}),
        "expected rewards that are finite numbers, or null where one does not apply, got True",
    ),
    "huge number": (
        says(b'{"rewards": [1, 1e39, 3, 4]}'),
        "expected rewards that are finite numbers, or null where one does not apply, got 1e+39",
    ),
    "infinite": (
        says(b'{"rewards": [1, 1e999, 3, 4]}'),
        "expected rewards that are finite numbers, or null where one does not apply, got inf",
    ),
    "nan": (
        says(b'{"rewards": [1, NaN, 3, 4]}'),
        "expected JSON, got 27 bytes that begin with '{\"rewards\": [1, NaN, 3, 4]}' (JSON has no NaN; a reward that does not apply is null)",
    ),
    "not JSON": (
        says(b"\xff\x00rewards"),
        "expected JSON, got 9 bytes that begin with '\ufffd\\x00rewards' (",
    ),
    "HTML": (
        says(b"<html><body>Welcome</body></html>"),
        "expected JSON, got 33 bytes that begin with '<html><body>Welcome</body></html>' (Expecting value: line 1 column 1 (char 0))",
    ),
    "list": (says([1, 2, 3, 4]), "expected a JSON object, got a list"),
    "nested": (says(b"[" * 40000), "expected JSON, got 40000 bytes that begin with '[[[["),
    "oversize": (
        says(b" " * 100000),
        "expected at most 65792 bytes for this many samples, the answer has 100000 bytes",
    ),
    "HTML error": (says(b"<h1>Not Found</h1>", 404), "status 404 Not Found: <h1>Not Found</h1>"),
    "redirect": (
        says(b"", 302, Location="http://elsewhere/"),
        "status 302 Found (redirects are not followed; it points to http://elsewhere/)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_stops_at_once_with_a_clear_message(kind):
    answer, text = BROKEN[kind]
    url, message = failing([answer], on_failure="nan")
    expected = where(url) + text
    assert message == expected if not text.endswith(("(", "[")) else message.startswith(expected)


def encoded(**tensors):
    return base64.b64encode(save(tensors)).decode()


GRADIENTS = {
    "missing": (None, "expected `gradient` beside `rewards`, as the request asks for it"),
    "shape": (
        encoded(gradient=torch.zeros(4, 3, 8, 6)),
        "expected a finite gradient of the samples' shape (4, 3, 6, 8), got shape (4, 3, 8, 6)",
    ),
    "values": (
        encoded(gradient=torch.full((4, 3, 6, 8), math.nan)),
        "expected a finite gradient of the samples' shape (4, 3, 6, 8), got values that are not finite",
    ),
    "name": (
        encoded(slope=torch.zeros(4, 3, 6, 8)),
        "expected one floating-point tensor 'gradient', got: slope",
    ),
    "base64": ("@@", "`gradient` is not base64: "),
    "pickle": (
        base64.b64encode(b"\x80\x04K\x01.").decode(),
        "`gradient` is not a safetensors file: ",
    ),
    "type": ([0.0], "expected `gradient` as base64 text, got list"),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_broken_gradient_is_named(kind):
    content, text = GRADIENTS[kind]
    message = {"rewards": [1, 2, 3, 4]} | ({} if content is None else {"gradient": content})
    with running(Scripted(says(message))) as server, pytest.raises(RewardError) as caught:
        leaf = PIXELS.clone().requires_grad_()
        Remote(address(server), gradient=True, **FAST)(make_rollout(leaf, BATCH), BATCH)
    expected = where(address(server)) + text
    assert (
        str(caught.value).startswith(expected)
        if text.endswith(": ")
        else str(caught.value) == expected
    )


def slow_body(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not stop.wait(0.05):
        connection.sendall(b" ")


def slow_head(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Wait: ")
    while not stop.wait(0.05):
        connection.sendall(b"w")


def silence(connection, stop):
    stop.wait(5)


def cut_off(connection, stop):
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"rewards": [1')


def cut_off_chunk(connection, stop):
    connection.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"rewards": [1')


def hang_up(connection, stop):
    connection.shutdown(socket.SHUT_RDWR)


def garbage(connection, stop):
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


LATE = "no complete answer within 0.6 s"
NO_ANSWER = {
    slow_body: LATE,
    slow_head: LATE,
    silence: LATE,
    cut_off: "the answer was cut off after 14 of 100 bytes",
    cut_off_chunk: "the answer was cut off",
    hang_up: "RemoteDisconnected: Remote end closed connection without response",
    garbage: "BadStatusLine: SSH-2.0-OpenSSH_9.6",
}


@pytest.mark.parametrize("send", NO_ANSWER, ids=lambda f: f.__name__)
def test_no_answer_ends_in_time_with_a_clear_message(send):
    # What comes at once is waited for as long as a busy machine may take.
    url, message = failing(send, timeout=0.6 if NO_ANSWER[send] == LATE else 120.0)
    assert message == (
        f"{where(url)}no answer in 2 attempts; the last: {NO_ANSWER[send]}\n"
        f"Is the server running (`rewardft rewards serve`)? `on_failure: nan` continues without it."
    )


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(RewardError) as caught:
        score(Remote(url, **FAST))
    assert str(caught.value) == (
        f"{where(url)}no answer in 2 attempts; the last: ConnectionRefusedError: [Errno 111] Connection refused\n"
        f"Is the server running (`rewardft rewards serve`)? `on_failure: nan` continues without it."
    )


def test_the_policy_nan_leaves_out_only_what_was_not_answered(caplog):
    def second_fails(body):
        return says(b"", 500) if "s2" in body["ids"] else rewards_for(body)

    with running(Scripted(second_fails)) as server:
        remote = Remote(address(server), batch_size=2, on_failure="nan", **FAST)
        got = score(remote)
        assert got[:2].tolist() == [2.0, 2.0] and got[2:].isnan().all()
    assert caplog.messages == [
        f"remote reward {address(server)} (samples s2, s3): no answer in 2 attempts; "
        f"the last: status 500 Internal Server Error; going on with NaN"
    ]
    leaf = PIXELS.clone().requires_grad_()
    value = Remote(address(server), gradient=True, on_failure="nan", **FAST)(
        make_rollout(leaf, BATCH), BATCH
    )
    (slope,) = torch.autograd.grad(torch.where(value.isnan(), 0.0, value).sum(), leaf)
    assert value.isnan().all() and not slope.any()


@pytest.mark.parametrize("failing", [False, True], ids=["cancelled", "another has failed"])
def test_one_that_is_interrupted_does_not_say_that_nobody_answers(failing, caplog):
    """With `on_failure: nan` too: no NaN was needed."""
    asked = threading.Event()

    def busy(body):
        if "s2" in body["ids"]:
            asked.set()
            return says(b"", 503)
        assert asked.wait(60)
        return says(b"", 404 if failing else 503)

    waits = {"attempts": 5, "backoff": 1000.0, "max_wait": 1000.0, "concurrency": 2}
    with running(Scripted(busy)) as server:
        remote = Remote(address(server), batch_size=2, on_failure="nan", **waits)
        asking = remote.begin_scoring(make_rollout(PIXELS, BATCH), BATCH)
        assert asked.wait(60)
        if failing:
            with pytest.raises(RewardError, match="status 404"):
                asking.result()
        else:
            asking.cancel()
        url = address(server)
    assert caplog.messages == []
    assert str(asking.futures[1].exception()) == (
        f"remote reward {url} (samples s2, s3): interrupted after 1 of 5 attempts; the last: status "
        "503 Service Unavailable"
    )


# -- options and columns -----------------------------------------------------------------------------------------------

OPTIONS = [
    (
        {"url": "localhost:8000"},
        "remote: expected a url such as http://127.0.0.1:8000/, got 'localhost:8000'",
    ),
    (
        {"url": "file:///etc/passwd"},
        "remote: expected a url such as http://127.0.0.1:8000/, got 'file:///etc/passwd'",
    ),
    (
        {"url": "http://me:pw@host/"},
        "remote: the url holds a user name or password; name the token's variable in `token_env`",
    ),
    (
        {"space": "latents", "payload": "png"},
        "remote: latents are not pictures; use `payload: safetensors` with `space: latents`",
    ),
    (
        {"attempts": 0},
        "remote: expected concurrency, attempts and batch_size of at least 1, and timeout, backoff and max_wait above 0",
    ),
]


@pytest.mark.parametrize(("options", "text"), OPTIONS, ids=str)
def test_options_that_cannot_work_are_refused(options, text):
    with pytest.raises(ComponentError) as caught:
        Remote(**{"url": "http://127.0.0.1:1/", **options})
    assert str(caught.value) == text


def test_columns_are_the_prompts_unless_named():
    with running(Scripted(rewards_for)) as server:
        score(Remote(address(server)))
        score(Remote(address(server)), batch=batch_of(4, label=torch.arange(4)))
        score(Remote(address(server), columns=["label"]))
        assert [request["columns"] for request, _ in server.requests] == [
            {"prompt": ["a", "b", "c", "d"]},
            {},
            {"label": [0, 1, 2, 3]},
        ]
        with pytest.raises(RewardError) as caught:
            score(Remote(address(server), columns=["prompt", "seed"]))
    assert str(caught.value) == (
        f"remote: the data set has no column seed to send to {address(server)}; it gives: prompt, label"
    )


# -- what the server refuses -------------------------------------------------------------------------------------------

GOOD = json.loads(encode_request(PIXELS, BATCH, {"prompt": BATCH["prompt"]}, "safetensors", False))
REQUESTS = [
    ({"version": 2}, "expected version 1 of the wire format, got 2"),
    ({"ids": []}, "expected `ids`, a list of text with one entry per sample"),
    ({"columns": {"prompt": ["a"]}}, "expected `columns`, a mapping of lists with 4 entries each"),
    (
        {"payload": "pickle"},
        "expected `payload` safetensors or png (with a list of `samples`), got 'pickle'",
    ),
    ({"ids": ["a", "b"], "columns": {}}, "expected one sample per id, got 4 samples and 2 ids"),
    (
        {"payload": "png", "samples": ["aGVsbG8="]},
        "`samples` has an entry that is not a PNG file: ",
    ),
    (
        {"samples": encode_tensor("samples", torch.full((4, 3, 2, 2), math.nan))},
        "expected samples of finite numbers, got some that are NaN or infinite",
    ),
    (
        {"samples": encode_tensor("samples", torch.zeros(4, 3, 0, 2))},
        "expected samples of finite numbers, got none",
    ),
]


@pytest.mark.parametrize(("change", "text"), REQUESTS, ids=str)
def test_requests_that_are_not_in_the_format_are_refused(change, text):
    with pytest.raises(WireError) as caught:
        decode_request(json.dumps(GOOD | change).encode())
    assert str(caught.value).startswith(text) if text.endswith(": ") else str(caught.value) == text


def test_a_request_that_is_too_large_is_refused():
    with (
        serve(symmetry, limit=1000) as server,
        pytest.raises(RewardError, match=r"status 413 .*expected a Content-Length of at most 1000"),
    ):
        score(Remote(address(server), **FAST), noise_pictures(4, 64, 64))


# -- the documentation -------------------------------------------------------------------------------------------------


def test_the_server_of_the_documentation_works(tmp_path):
    source = files_in("docs/remote-reward.md")["brightness_server.py"]
    assert len(source.splitlines()) <= 17
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "server.py").write_text(source.replace("8000", str(port)))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "server.py")], stderr=subprocess.PIPE
    )
    try:
        got = score(Remote(f"http://127.0.0.1:{port}/", attempts=600, backoff=0.2, max_wait=0.5))
    finally:
        process.terminate()
        process.communicate(timeout=600)
    assert torch.allclose(got, PIXELS.flatten(1).mean(1), atol=1e-6)


def test_the_options_of_the_documentation_are_those_of_the_reward():
    rows = table_rows(
        read("docs/remote-reward.md").partition("\n## The recipe")[2].partition("\n## ")[0]
    )
    documented = {words(row[0])[0]: row[1].strip("`") for row in rows}
    parameters = inspect.signature(Remote).parameters
    words_for = {inspect.Parameter.empty: "required", None: "null", False: "false"}
    assert documented == {
        name: words_for.get(p.default, str(p.default)) for name, p in parameters.items()
    }


def test_a_recipe_trains_on_a_remote_gradient(tmp_path):
    """The same figures as with the reward at home."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(next(text for text in blocks("docs/remote-reward.md", "yaml")))
    with serve(symmetry) as server:
        away = run_recipe(
            recipe,
            tmp_path / "away",
            f"rewards.0.url={address(server)}",
            "train.steps=3",
            "train.log_every=1",
        )
    home = recipe.read_text().replace(
        '{use: remote, url: "http://127.0.0.1:8000/", gradient: true}', "{use: symmetry}"
    )
    recipe.write_text(home)
    here = run_recipe(recipe, tmp_path / "here", "train.steps=3", "train.log_every=1")
    assert len(here.column("reward")) == 3
    assert away.column("reward/remote") == here.column("reward/symmetry")
    assert away.column("gradient_norm") == here.column("gradient_norm")
