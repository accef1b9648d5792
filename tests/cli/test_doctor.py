"""`rewardft doctor`: read off real metadata, some of it made here."""

import importlib.metadata
import os

import pytest
import torch

from rewardft.cli import diagnosis, main
from rewardft.cli.diagnosis import bad_pairs, devices, driver, requirements


def installed_as(folder, name, version):
    """A package's metadata, where Python looks for it first."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_versions_devices_and_extras(capsys):
    code = main(["doctor"])
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert f"torch {torch.__version__} ok" in rows
    assert f"peft {importlib.metadata.version('peft')} ok" in rows
    assert any(row.startswith("report ") for row in rows)
    assert code == (1 if "problem: " in said else 0)
    assert not torch.cuda.is_initialized()


def test_the_core_is_told_from_the_extras():
    found = {(one.extra, one.requirement.name) for one in requirements()}
    assert ("", "torch") in found and ("report", "plotly") in found
    assert ("", "plotly") not in found and ("report", "torch") not in found


def test_a_version_that_is_too_old_and_a_bad_pair(tmp_path, monkeypatch, capsys):
    installed_as(tmp_path, "peft", "0.17.1")
    installed_as(tmp_path, "diffusers", "0.42.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    (first, *_) = bad_pairs()
    assert first == "peft 0.17.1 with diffusers 0.42.0: peft does not import beside it."
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "problem: peft 0.17.1 does not fit >=0.18" in said


def test_an_extra_that_lacks_something_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    installed_as(tmp_path, "plotly", "4.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    main(["doctor"])
    said = capsys.readouterr().out
    assert "plotly 4.0 does not fit >=5.24; pip install 'rewardft[report]'" in said


@pytest.mark.parametrize(
    ("program", "patience", "problem"),
    [
        ("echo 'No devices'; exit 9", 60, "{path} ended with exit code 9: No devices"),
        ("exec sleep 60", 0.2, "{path}: Command '['{path}', "),
    ],
)
def test_a_driver_that_fails_or_hangs_is_a_problem(
    tmp_path, monkeypatch, program, patience, problem
):
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/bash\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(diagnosis, "PATIENCE", patience)
    driver.cache_clear()
    lines, said = driver()
    driver.cache_clear()
    assert lines == [] and said.startswith(problem.format(path=path))


def test_the_drivers_gpus_are_listed(tmp_path, monkeypatch):
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/bash\necho 'A GPU, 80 GiB, 1.2'\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    driver.cache_clear()
    assert ("GPU", "A GPU, 80 GiB, 1.2") in list(devices())
    driver.cache_clear()
