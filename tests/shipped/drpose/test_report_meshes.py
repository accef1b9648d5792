"""Meshes in a comparison report: rows per variant, kept until a run is evaluated in another way."""

import numpy as np
from rewardft_plugins.drpose.report import meshes as report
from rewardft_plugins.humans.mesh import Mesh

from rewardft.contracts.records import ComparisonRecord, RunRecord, VariantRecord


def triangle(shift=0.0):
    corners = np.array([[shift, 0, 0], [1 + shift, 0, 0], [shift, 1, 0]], np.float32)
    return Mesh(corners, np.array([[0, 1, 2]], np.int32), np.eye(3, dtype=np.float32))


ROWS = [("a/1", [("base", triangle(0.2)), ("tuned", triangle(0.1)), ("truth", triangle())])]


def test_what_is_written_is_read_back_for_the_same_settings_alone(tmp_path):
    report._write(tmp_path / "m.npz", "settings", ROWS)
    ((name, meshes),) = report._read(tmp_path / "m.npz", "settings")
    assert name == "a/1" and [who for who, _ in meshes] == ["base", "tuned", "truth"]
    for (_, found), (_, expected) in zip(meshes, ROWS[0][1]):
        for field in ("vertices", "faces", "colours"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
    assert report._read(tmp_path / "m.npz", "others") is None
    assert report._read(tmp_path / "none.npz", "settings") is None


def test_a_row_for_each_variant_says_how_far_its_meshes_are(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "has_poses", lambda run, _: run.status == "finished")
    monkeypatch.setattr(report, "kept_meshes", lambda _: ROWS)
    runs = [RunRecord(seed=s, folder="r", status=x) for s, x in ((0, "failed"), (3, "finished"))]
    variants = [VariantRecord(name="x <y>", recipe="r", algorithm="drtune", runs=runs)]
    record = ComparisonRecord(title="t", date="d", command="c", seeds=[0], variants=variants)
    (section,) = report.mesh_sections(record, tmp_path)
    assert section.title == "Meshes" and section.html.count("<canvas") == 3
    assert "x &lt;y&gt; (seed 3), a/1: Chamfer distance " in section.html
    assert "http" not in section.html
    empty = ComparisonRecord(title="t", date="d", command="c", seeds=[0], variants=[])
    assert report.mesh_sections(empty, tmp_path) == []
