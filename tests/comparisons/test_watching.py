"""`rewardft watch`: what the page says of a run and of a comparison at every point of its life, and what the server gives
to whom. How the page looks and follows is in `test_watch_browser.py`."""

import http.client
import json
import os
import re
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardft.cli import main
from rewardft.comparisons.members import expand
from rewardft.comparisons.plan import Plan, read_plan, write_plan
from rewardft.comparisons.sources import Request, Variant
from rewardft.comparisons.watching.page import served_page
from rewardft.comparisons.watching.server import Server
from rewardft.comparisons.watching.watched import fingerprint, look
from rewardft.errors import RewardftError
from rewardft.recipe.recipe import load_recipe
from rewardft.storage.folder import hold, is_held, lock, open_folder
from rewardft.testing import run_recipe

pytest.importorskip("plotly", reason="the page needs plotly: pip install 'rewardft[report]'")
RECIPE = """
plugins: [rewardft.testing.tiny, ./moody.py]
seed: 3
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 4, log_every: 1}
evaluate: {every: 2, samples: 4}
samples: {every: 2, count: 2}
"""
MOODY = """
from rewardft import hookimpl

calls = []

def moody(rollout, batch, *, fails_at: int = 2):
    calls.append(1)
    if len(calls) == fails_at:
        raise ValueError("no <judge> today")
    return rollout.decoded.flatten(1).mean(1)

@hookimpl
def register_rewards():
    return {"moody": moody}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, and a comparison of two seeds."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "moody.py").write_text(MOODY)
    (folder / "recipe.yaml").write_text(RECIPE)
    run_recipe(folder / "recipe.yaml", folder / "run")
    words = ["compare", str(folder / "recipe.yaml"), "--seeds", "2", "--pictures", "0"]
    assert main([*words, "--out", str(folder / "compared")]) == 0
    return folder


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / folder.name)


def text_of(page):
    """What the live part says, without markup."""
    part = re.search(r'<section id="live".*?</section>', page, re.DOTALL).group()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part))


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_that_has_just_started(made, tmp_path):
    """Nothing but its recipe is there, and a process holds it."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text(load_recipe(made / "recipe.yaml").to_yaml())
    handle = hold(out, make=False)
    try:
        said = text_of(served_page(out, "v"))
    finally:
        os.close(handle)
    assert "Running. Step 0." in said
    # The same folder when that process has gone.
    assert "Failed: it ended without saying why. Step 0." in text_of(served_page(out, "v"))


def test_a_run_in_the_middle(made, tmp_path):
    """Its curves, its change so far, and the pictures that there are."""
    out = copy_of(made / "run", tmp_path)
    (out / "summary.json").unlink()
    (out / "evaluations" / "step-00000004.json").unlink()
    (out / "samples" / "grid-00000004.png").unlink()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= 2]
    (out / "metrics.jsonl").write_text(
        "\n".join([*kept, '{"step": 3, "lo'])
    )  # in the middle of a line
    handle = hold(out, make=False)
    try:
        watched, page = look(out), served_page(out, "v")
    finally:
        os.close(handle)
    reward = json.loads(kept[-2])["reward"]
    assert "Running. Step 2, 50 %." in text_of(page)
    said = re.search(r"reward (\S+)", text_of(page))[1].replace("−", "-")
    assert float(said) == pytest.approx(reward, rel=0.01)
    (value, *_) = watched.record.variants[0].values
    tables = [
        json.loads((out / "evaluations" / f"step-{step:08d}.json").read_text())["per_sample"]
        for step in (0, 2)
    ]
    before, after = (sum(t["reward/tiny_brightness"]) / 4 for t in tables)
    assert value.versus_base.value == pytest.approx(after - before)
    steps = re.findall(r'"step":(\d+),"source":"samples/0/\1\.png\?\d+"', page)
    assert steps == ["0", "2"]
    assert 'id="failures"' not in page


def test_a_finished_run(made):
    page = served_page(made / "run", "v")
    assert "Finished. Step 4, 100 %." in text_of(page)
    assert re.findall(r'"step":(\d+),"source"', page) == ["0", "2", "4"]


def test_a_failed_run_says_why(made, tmp_path):
    settings = ["rewards=[{use: moody, fails_at: 3}]", "evaluate.every=0", "samples.every=0"]
    with pytest.raises(ValueError, match="no <judge> today"):
        run_recipe(made / "recipe.yaml", tmp_path / "run", *settings)
    page = served_page(tmp_path / "run", "v")
    assert "Failed: ValueError: no &lt;judge&gt; today" in text_of(page)
    assert "<judge>" not in page.split("<script")[0]


def test_a_folder_that_holds_neither(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: neither a run nor a comparison; expected the recipe.yaml of `rewardft run` in it, or the "
        "plan.json of `rewardft compare`.\n"
    )


def test_a_folder_that_is_not_there_yet(tmp_path, capsys):
    (tmp_path / "live").mkdir()
    assert main(["watch", str(tmp_path / "lvie")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/lvie: there is no such folder yet. Did you mean 'live'? A run makes its own when its recipe "
        "has been checked: give the command again then.\n"
    )


# -- a comparison ------------------------------------------------------------------------------------------------------


def test_a_comparison_whose_runs_have_not_all_ended(made, tmp_path):
    out = copy_of(made / "compared", tmp_path)
    write_plan(replace(read_plan(out), collected=""), out)  # the comparison was started again
    second = read_plan(out).members[1].folder
    shutil.rmtree(second)
    second.with_name(f"{second.name}.log").unlink()
    watched, said = look(out), text_of(served_page(out, "v"))
    assert "2 runs: 1 waiting, 1 finished." in said
    assert "recipe seed 4 waiting not begun" in said
    (variant,) = watched.record.variants
    assert [run.status for run in variant.runs] == ["finished", "missing"]
    assert all(len(value.seeds) == 1 for value in variant.values)
    # The run's own name and times; the record that the comparison wrote before is not touched.
    assert watched.record.title == look(made / "compared").record.title


def test_a_comparison_that_is_over_is_shown_as_it_was_recorded(made):
    watched = look(made / "compared")
    assert [seen.record.status for seen in watched.runs] == ["finished", "finished"]
    assert "2 runs: 2 finished." in text_of(served_page(made / "compared", "v"))


def test_a_copied_comparison_is_over_whatever_the_times_of_its_files(made, tmp_path):
    """Also without its runs: only the record can still say what came of them."""
    out = copy_of(made / "compared", tmp_path)
    shutil.rmtree(out / "runs")
    os.utime(out / "comparison.json", (0, 0))
    (variant,) = look(out).record.variants
    assert [run.status for run in variant.runs] == ["finished", "finished"]
    # A record that was changed is not that of the plan.
    (out / "comparison.json").write_text((out / "comparison.json").read_text() + " ")
    (variant,) = look(out).record.variants
    assert [run.status for run in variant.runs] == ["missing", "missing"]


def test_a_plan_gives_its_runs_back(made, tmp_path):
    """As `expand` makes them, wherever the folder is now, and also of a variant that cannot be run."""
    variants = (Variant("good", made / "recipe.yaml"), Variant("bad", made / "nowhere.yaml"))
    members = expand(Request(variants, seeds=2), made / "compared")
    place = tmp_path / "place"
    place.mkdir()
    request = Request((), seeds=2, name="study", match="divergence", notes=("a note",))
    write_plan(Plan(request, members, "rewardft compare study.yaml"), place)
    plan = read_plan(place)
    assert (plan.request, plan.command) == (request, "rewardft compare study.yaml")
    for mine, theirs in zip(plan.members, members, strict=True):
        for name in ("seed", "problem", "given", "digest", "label", "settings"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert mine.folder.resolve() == theirs.folder
        if theirs.recipe is not None:
            assert (
                mine.recipe.model_copy(update={"seed": 0}).dump()
                == theirs.recipe.model_copy(update={"seed": 0}).dump()
            )
    (place / "plan.json").write_text('{"request": {}, "members": [], "command": ""}')
    with pytest.raises(
        RewardftError, match=r"plan.json: damaged \(KeyError: 'seeds'\). Give the command"
    ):
        read_plan(place)


def test_a_plan_is_read_from_any_folder(made, tmp_path, monkeypatch):
    """Its recipe was named from the folder in which the comparison was started."""
    monkeypatch.chdir(made)
    members = expand(Request((Variant("good", Path("recipe.yaml")),), seeds=1), tmp_path)
    write_plan(Plan(Request((), seeds=1), members, "rewardft compare recipe.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    (member,) = read_plan(tmp_path).members
    assert member.problem is None and member.recipe is not None


def test_paths_in_settings_are_absolute_in_a_plan(made, tmp_path, monkeypatch):
    """`--set plugins=[./moody.py]` starts at the folder of the command, which the watcher's need not be."""
    monkeypatch.chdir(made)
    settings = ("plugins=[rewardft.testing.tiny, ./moody.py]", "evaluate.samples=2")
    members = expand(Request((Variant("good", Path("recipe.yaml"), settings),), seeds=1), tmp_path)
    write_plan(Plan(Request((), seeds=1), members, "rewardft compare recipe.yaml"), tmp_path)
    (written,) = json.loads((tmp_path / "plan.json").read_text())["members"]
    plugins = ["rewardft.testing.tiny", str(made / "moody.py")]
    assert written["settings"] == [f"plugins={json.dumps(plugins)}", "evaluate.samples=2"]
    monkeypatch.chdir(tmp_path)
    (member,) = read_plan(tmp_path).members
    assert member.recipe.dump()["plugins"] == plugins


def test_once_writes_a_page_that_stands_alone(made, tmp_path, capsys):
    out = copy_of(made / "run", tmp_path)
    assert main(["watch", str(out), "--once"]) == 0
    assert capsys.readouterr().out == f"{out / 'watch.html'}\n"
    page = (out / "watch.html").read_text()
    assert page.count('"source":"data:image/') == 3 and 'data-version=""' in page
    assert "connect-src" not in page


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(made, tmp_path):
    out = copy_of(made / "run", tmp_path)
    server = Server(out, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield out, server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
    connection.putrequest(method, path, skip_host=True)
    for name, values in {"Host": "127.0.0.1", **headers}.items():
        for value in [values] if isinstance(values, str) else values:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer


def test_the_page_its_version_and_its_pictures(served):
    out, server = served
    status, page, answer = ask(server, "/")
    assert status == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    version = ask(server, "/version")[1].decode()
    assert f'data-version="{version}"' in page.decode()
    for step in (0, 2, 4):
        written = (out / "samples" / f"grid-{step:08d}.png").read_bytes()
        assert ask(server, f"/samples/0/{step}.png?17")[:2] == (200, written)
    assert ask(server, "/", "HEAD")[:2] == (200, b"")


def test_the_version_changes_with_the_folder_and_the_page_with_it(served):
    out, server = served
    before, page = ask(server, "/version")[1], ask(server, "/")[1]
    assert ask(server, "/version")[1] == before and ask(server, "/")[1] == page
    (out / "summary.json").unlink()
    (out / "error.txt").write_text("step 4\nValueError: the judge has gone\n")
    server.pages.next = 0.0  # as if the time had passed that it waits between two pages
    after = ask(server, "/version")[1]
    assert after != before
    assert b"Failed: ValueError: the judge has gone" in ask(server, "/")[1]


def test_a_page_that_took_long_is_not_made_at_once_again(served):
    out, server = served
    page = ask(server, "/")[1]
    server.pages.next = float("inf")
    (out / "samples" / "grid-00000004.png").unlink()
    assert (
        ask(server, "/")[1] == page and ask(server, "/version")[1].decode() == server.pages.version
    )


def test_a_folder_that_cannot_be_read_is_said_and_read_again(served):
    out, server = served
    lines = (out / "metrics.jsonl").read_text()
    (out / "metrics.jsonl").write_text("not <json>\n" + lines)
    status, content, _ = ask(server, "/")
    assert status == 503 and b"metrics.jsonl:1: damaged" in content and b"<json>" not in content
    assert b'<meta http-equiv="refresh" content="5">' in content
    (out / "metrics.jsonl").write_text(lines)
    assert ask(server, "/")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8008",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "",
        "0.0.0.0",
        ("127.0.0.1", "evil.example"),
        (),
    ],
)
def test_another_name_than_this_machines_gets_nothing(served, host):
    """A site whose name was pointed at 127.0.0.1 could otherwise read the page."""
    status, content, _ = ask(served[1], "/", Host=host)
    assert (status, content) == (421, b"not a name of this machine\n")


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "localhost", "LOCALHOST:80", "[::1]:9"])
def test_this_machines_names_with_any_port_are_answered(served, host):
    """Any port: it may have been forwarded from another one."""
    assert ask(served[1], "/version", Host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/recipe.yaml",
        "/samples/../recipe.yaml",
        "/samples/0/../../recipe.yaml",
        "/samples/%2e%2e/recipe.yaml",
        "/samples/0/2.png/../../../recipe.yaml",
        "//recipe.yaml",
        "/samples/0/3.png",
        "/samples/1/2.png",
        "/samples/-1/2.png",
        "/samples/0/2.png%0a",
        "/samples/",
        "/version/",
    ],
)
def test_nothing_but_the_four_addresses_is_served(served, path):
    assert ask(served[1], path)[:2] == (404, b"no such page\n")


def test_a_picture_that_is_a_link_is_not_followed(served, tmp_path):
    out, server = served
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    path = out / "samples" / "grid-00000002.png"
    path.unlink()
    path.symlink_to(secret)
    assert ask(server, "/samples/0/2.png")[:2] == (404, b"no such page\n")
    assert b"samples/0/2.png" not in ask(server, "/")[1]


def test_nothing_can_be_sent_to_it(served):
    assert ask(served[1], "/", "POST")[0] == 501


def test_only_this_machine_can_reach_it(served):
    server = served[1]
    assert server.server_address[0] == "127.0.0.1"
    with socket.socket() as other:
        other.settimeout(2)
        with pytest.raises(OSError):
            other.connect(("127.0.0.2", server.server_port))


def test_a_port_that_is_in_use(served, capsys):
    out, server = served
    assert main(["watch", str(out), "--port", str(server.server_port)]) == 2
    assert capsys.readouterr().err == (
        f"error: --port: port {server.server_port} of 127.0.0.1 is in use. Give another one, or 0 for any that is free.\n"
    )


def test_looking_whether_a_run_is_held_does_not_keep_it_from_starting(tmp_path, monkeypatch):
    """The look takes the lock for a moment, and the start of a run waits for it."""
    out = tmp_path / "run"
    out.mkdir()
    looking = hold(out, make=False)
    # The look is over while the start of the run waits, however busy the machine is.
    waits = SimpleNamespace(sleep=lambda seconds: os.close(looking))
    monkeypatch.setattr("rewardft.storage.folder.time", waits)
    training = hold(out, make=False)
    assert is_held(out)
    os.close(training)


def test_two_that_look_at_once_do_not_take_each_other_for_the_run(tmp_path):
    looking = open_folder(tmp_path, make=False)
    assert lock(looking, shared=True) and not is_held(tmp_path)
    os.close(looking)
    training = hold(tmp_path, make=False)
    assert is_held(tmp_path)
    os.close(training)


def test_another_fingerprint_as_soon_as_a_run_begins(made, tmp_path):
    out = copy_of(made / "compared", tmp_path)
    shutil.rmtree(out / "runs")
    before = fingerprint(out)
    place = read_plan(out).members[1].folder
    place.mkdir(parents=True)
    assert fingerprint(out) == before
    (place / "recipe.yaml").write_text("")
    assert fingerprint(out) != before
