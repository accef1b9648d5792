"""`vlm_judge` against small servers on this machine: what is asked, read, asked again, kept, and never taken for 0."""

import base64
import io
import json
import math
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.rewards.vlm_judge import Unreadable, VlmJudge, read_score

from rewardft import Batch
from rewardft.errors import CheckpointError, ComponentError, RewardError
from rewardft.testing import check_reward, make_rollout
from tests.shipped.rewards.servers import Scripted, address, running

BATCH = Batch(("a", "b", "c"), (0, 0, 0), {"prompt": ["a cat", "a {dog}", "a cat"]})


def pictures(seed=0):
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def saying(text):
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def picture_of(body):
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def by_brightness(body):
    """A judge that sees: ten times the mean of the picture that was sent."""
    return saying(f"It is bright.\n**SCORE: {picture_of(body).mean() / 25.5:.3f}**")


def judge(server, **options):
    return VlmJudge(address(server), "tiny", backoff=0.0, **options)


def test_each_sample_has_its_own_score_of_its_own_picture_and_prompt():
    x = pictures()
    with running(Scripted(by_brightness)) as server:
        values = judge(server)(make_rollout(x, BATCH), BATCH)
        report = check_reward(judge(server), x, BATCH, differentiable=False)
    assert values.tolist() == pytest.approx(x.flatten(1).mean(1).tolist(), abs=2e-3)
    assert 0 <= report.low <= report.high <= 1
    texts = {body["messages"][0]["content"][0]["text"] for body, _ in server.requests}
    assert len(texts) == 2 and any("The text: a {dog}\n" in text for text in texts)
    assert all("a number from 0 to 10." in text for text in texts)
    assert all(body["temperature"] == 0 and body["model"] == "tiny" for body, _ in server.requests)


def test_equal_questions_are_asked_once_and_kept(tmp_path):
    x = pictures()
    x[2] = x[0]
    with running(Scripted(by_brightness)) as server:
        first = judge(server, cache=tmp_path / "scores")
        values = first(make_rollout(x, BATCH), BATCH)
        assert len(server.requests) == 2 and torch.equal(
            first(make_rollout(x, BATCH), BATCH), values
        )
        again = judge(server, cache=tmp_path / "scores")
        assert torch.equal(again(make_rollout(x, BATCH), BATCH), values)
        assert len(server.requests) == 2 and len(list((tmp_path / "scores").iterdir())) == 2
        # Another question is another one.
        judge(server, cache=tmp_path / "scores", highest=20.0, question="{prompt}: SCORE")(
            make_rollout(x, BATCH), BATCH
        )
        assert len(server.requests) == 4
        # So is the same one in another range, which it need not name.
        other = judge(server, cache=tmp_path / "scores", highest=40.0, question="{prompt}: SCORE")(
            make_rollout(x, BATCH), BATCH
        )
        assert len(server.requests) == 6
        assert other.tolist() == pytest.approx((values / 4).tolist(), abs=1e-6)


READ = {
    "SCORE: 7": 7.0,
    "I like it.\n\nScore = 6.5\n": 6.5,
    "**SCORE:** 3": 3.0,
    "score: 4 ... so SCORE: 4": 4.0,
    "SCORE: 0": 0.0,
    "Score: 10.": 10.0,
    "_Score_: `8`, because it is sharp": 8.0,
    "SCORE: 9\n- it is sharp": 9.0,
    "I score from 0 to 10.\nSCORE: 0-10\nSCORE: 2": 2.0,
}
UNREADABLE = [
    "",
    "7",
    "It deserves a good score.",
    "SCORE: seven",
    "SCORE: 11",
    "SCORE: -1",
    "SCORE: 7/10",
    "SCORE: 70%",
    "SCORE: 3, no, SCORE: 4",
    "SCORE: nan",
    "SCORE: \u22123",
    "SCORE: \u20133",
    "SCORE: 0-10",
    "SCORE: 7-8",
    "SCORE: 7 \u2013 8",
    "SCORE: 7 \u2212 8",
    "SCORE: 7,5",
    "SCORE: 7 / 10",
    "**SCORE: 7**/10",
    "SCORE: 7.5 %",
    "SCORE: ~7",
]


@pytest.mark.parametrize("text", READ)
def test_a_score_is_read(text):
    assert read_score(saying(text)[2], 0.0, 10.0) == READ[text]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_score_is_not_taken_for_one(text):
    with pytest.raises(Unreadable, match="expected one line `SCORE: number from 0 to 10`, got"):
        read_score(saying(text)[2], 0.0, 10.0)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 5}}]}']
)
def test_what_is_no_chat_completion(answer):
    with pytest.raises(Unreadable, match="expected a "):
        read_score(answer, 0.0, 10.0)


ONE = Batch(("a",), (0,), {"prompt": ["a cat"]})


def value(server, **options):
    return judge(server, attempts=3, **options)(make_rollout(pictures()[:1], ONE), ONE)


def test_unread_and_unanswered_questions_are_asked_again():
    with running(
        Scripted(saying("hm"), (503, {"Retry-After": "0"}, b"busy"), saying("SCORE: 5"))
    ) as server:
        assert value(server).tolist() == [0.5]
    assert len(server.requests) == 3


def test_what_stays_unread_stops_the_run_or_is_not_applicable():
    with running(Scripted(saying("I cannot judge people."))) as server:
        with pytest.raises(RewardError) as caught:
            value(server)
        assert str(caught.value) == (
            f"vlm_judge {address(server)}: no score in 3 attempts; expected one line `SCORE: number from 0 to "
            "10`, got 'I cannot judge people.'"
        )
        given = value(server, on_failure="nan")
    assert math.isnan(given.item()) and len(server.requests) == 6


def test_a_failure_is_not_kept(tmp_path):
    with running(Scripted(saying("no"), saying("no"), saying("no"), saying("SCORE: 2"))) as server:
        one = judge(server, attempts=3, on_failure="nan", cache=tmp_path)
        rollout = make_rollout(pictures()[:1], ONE)
        assert math.isnan(one(rollout, ONE).item())
        assert one(rollout, ONE).item() == pytest.approx(0.2)


def test_what_is_refused_stops_the_run_whatever_is_said():
    with (
        running(Scripted((404, {}, b"no such model"))) as server,
        pytest.raises(RewardError) as caught,
    ):
        value(server, on_failure="nan")
    assert str(caught.value) == f"vlm_judge {address(server)}: status 404 Not Found: no such model"
    assert len(server.requests) == 1


def test_one_that_is_interrupted_is_not_called_unanswered(caplog):
    asked = threading.Event()

    def busy(body):
        asked.set()
        return 503, {}, b"busy"

    with running(Scripted(busy)) as server:
        one = VlmJudge(address(server), "tiny", backoff=1000.0, max_wait=1000.0, on_failure="nan")
        asking = one.begin_scoring(make_rollout(pictures()[:1], ONE), ONE)
        assert asked.wait(60)
        asking.cancel()
        url = address(server)
    assert caplog.messages == []
    assert str(asking.futures[0].exception()) == (
        f"vlm_judge {url}: interrupted after 1 of 4 attempts; the last: status 503 Service "
        "Unavailable: busy"
    )


def test_a_failure_ends_the_questions_that_wait():
    """One question is refused while the other waits for its second attempt, and more are queued."""

    def answer(body):
        prompt = body["messages"][0]["content"][0]["text"]
        return (400, {}, b"no") if "0" in prompt else (503, {}, b"busy")

    many = Batch(tuple("abcdefgh"), (0,) * 8, {"prompt": [str(8 - i) for i in range(8)]})
    many["prompt"][2] = "0"
    x = torch.rand(8, 3, 8, 8)
    with running(Scripted(answer)) as server:
        one = VlmJudge(address(server), "tiny", "{prompt}", backoff=30.0, concurrency=3)
        with pytest.raises(RewardError, match="status 400"):
            one(make_rollout(x, many), many)
    # Asked four times each, the two that wait alone would make it nine.
    assert len(server.requests) <= 6


def test_a_token_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "secret")
    with running(Scripted(saying("SCORE: 5"))) as server:
        value(server, token_env="JUDGE_TOKEN")
    assert server.requests[0][1]["Authorization"] == "Bearer secret"


def test_options_that_cannot_work():
    with pytest.raises(
        ComponentError, match="vlm_judge: expected lowest below highest, got 5 and 5"
    ):
        VlmJudge("http://127.0.0.1:1/", "m", lowest=5.0, highest=5.0)
    with pytest.raises(ComponentError, match="vlm_judge: expected a url such as"):
        VlmJudge("127.0.0.1:8000", "m")


def test_a_data_set_without_prompts_is_told():
    bare = Batch(("a",), (0,), {"label": torch.tensor([1])})
    one = VlmJudge("http://127.0.0.1:1/", "m")
    with pytest.raises(
        RewardError, match="has no column 'prompt' for the question; it gives: label"
    ):
        one(make_rollout(pictures()[:1], bare), bare)
    # A question without a prompt needs none.
    with running(Scripted(saying("SCORE: 5"))) as server:
        asked = judge(server, question="Is it bright? SCORE: 0 to 10")
        assert asked(make_rollout(pictures()[:1], bare), bare).tolist() == [0.5]


@pytest.mark.parametrize("kept", ["11.0", "-1e300", "NaN", "Infinity"])
def test_a_score_that_somebody_has_put_into_the_cache(tmp_path, kept):
    with running(Scripted(saying("SCORE: 2"))) as server:
        judge(server, cache=tmp_path)(make_rollout(pictures()[:1], ONE), ONE)
        (file,) = tmp_path.iterdir()
        file.write_text(f'{{"score": {kept}}}')
        with pytest.raises(CheckpointError) as caught:
            judge(server, cache=tmp_path)(make_rollout(pictures()[:1], ONE), ONE)
    assert str(caught.value) == (
        f"{file}: expected a score from 0 to 10, got {float(kept):g}. Delete it: the question is asked again."
    )


def test_an_answer_that_is_nested_without_end():
    with pytest.raises(Unreadable, match="expected a chat completion"):
        read_score(b"[" * 100_000, 0.0, 10.0)


def test_a_cache_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with running(Scripted(saying("SCORE: 2"))) as server, pytest.raises(CheckpointError) as caught:
        judge(server, cache=tmp_path / "file")(make_rollout(pictures()[:1], ONE), ONE)
    assert str(caught.value) == (
        f"{tmp_path / 'file'}: cannot be a folder to write to (File exists). Give another one."
    )
