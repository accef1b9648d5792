"""What a manifest says of the code that a run was made with."""

import importlib
import json
import subprocess
from types import SimpleNamespace

import pytest

from rewardft.errors import CheckpointError
from rewardft.files.versions import version_of
from rewardft.runs.open import changed_plugins
from rewardft.storage.folder import resumptions
from rewardft.storage.manifest import git_state


def git(*words):
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_package_that_is_installed_meanwhile_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert version_of("made-up-package") is None
    facts = tmp_path / "made_up_package-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-package\nVersion: 1.2\n")
    importlib.invalidate_caches()
    assert version_of("made-up-package") == "1.2"


def test_the_commit_and_whether_files_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() is None
    git("init", "--quiet")
    assert git_state() is None, "nothing has been committed"
    (tmp_path / "a file").write_text("1")
    git("add", "a file")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state() == {"commit": commit, "changed": False}
    (tmp_path / "a file").write_text("2")
    assert git_state() == {"commit": commit, "changed": True}
    git("commit", "--quiet", "-am", "second")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "another").touch()
    assert git_state()["changed"]
    monkeypatch.setenv("PATH", "")
    assert git_state() is None


@pytest.mark.parametrize(
    ("read", "facts", "fix"),
    [
        (
            lambda out: resumptions(out, 1, []),
            {"resumed": [{"step": 2}, "x"]},
            "Delete it: the list of earlier resumptions is then lost, and the run continues.",
        ),
        (
            lambda out: changed_plugins(SimpleNamespace(plugin_files={}), out),
            {"plugins": ["x"]},
            "Delete it: the run is then taken to have been made with the present plugins.",
        ),
    ],
    ids=["resumed", "plugins"],
)
def test_a_list_of_another_form_is_damage(read, facts, fix, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: damaged (") and str(caught.value).endswith(fix)
