"""Files that people, other programs and full disks leave: damaged, foreign, nested without end, with keys twice, of a
format that is read by running a program. One sentence with the place; what is not ours stays."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image

from rewardft.cli import main
from rewardft.contracts.records import load_comparison
from rewardft.engine.held_out import evaluated
from rewardft.errors import CheckpointError, DataError
from rewardft.evaluation.evaluate import Evaluation
from rewardft.files.json_text import parse, read_object
from rewardft.files.pictures import decoded
from rewardft.storage.folder import drop_evaluations, rewind_evaluations
from rewardft.storage.recorder import read_records
from tests.bench import Bench

DEEP = "[" * 200_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with evaluations of three steps."""
    bench = Bench(tmp_path_factory.mktemp("made"))
    bench.run("evaluate={every: 1, samples: 4}", "samples.every=3")
    return bench.folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made / "run", tmp_path / "run")


def said(capsys, *words):
    """What a command prints that is refused."""
    assert main(list(words)) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_json_of_people_has_no_key_twice():
    assert parse('{"a": {"b": 1}, "c": [{"b": 2}, {"b": 3}]}') == {
        "a": {"b": 1},
        "c": [{"b": 2}, {"b": 3}],
    }
    with pytest.raises(ValueError, match=r"^the key 'dog' is repeated$"):
        parse('{"want": {"dog": 1, "cat": 1, "dog": 2}}')


def test_json_of_runs_that_is_nested_without_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(DEEP)
    for read in (lambda: read_object(path, {}, "Delete it."), lambda: load_comparison(path)):
        with pytest.raises(CheckpointError, match="maximum recursion depth"):
            read()
    path.write_text(f'{{"step": 1}}\n{DEEP}\n{{"step": 2}}\n')
    with pytest.raises(CheckpointError, match=rf"^{path}:2: damaged: expected an object with a st"):
        read_records(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{}", "title: Field required"),
        ("[]", "the whole: Input should be a valid dictionary or instance of ComparisonRecord"),
        ('{"title": 3}', "title: Input should be a valid string"),
    ],
)
def test_a_comparison_that_is_none_is_said_in_a_line(tmp_path, capsys, content, why):
    path = tmp_path / "comparison.json"
    path.write_text(content)
    assert said(capsys, "report", str(tmp_path)) == (
        f"error: {path}: not a comparison as `rewardft compare` writes it ({why})\n"
    )


# -- run folders ---------------------------------------------------------------------------------------------------

FOREIGN = "step-00000003 (copy).json"


def test_evaluations_are_those_that_a_run_has_written(run):
    """A copy that somebody made is neither read nor removed."""
    copy = run / "evaluations" / FOREIGN
    copy.write_text("not JSON")
    assert evaluated(run, 9) == [1, 2, 3]
    assert main(["watch", str(run), "--once"]) == 0
    rewind_evaluations(run, 1)
    assert evaluated(run, 9) == [1] and copy.read_text() == "not JSON"
    drop_evaluations(run)
    assert [path.name for path in (run / "evaluations").iterdir()] == [FOREIGN]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reason": ...}, "KeyError: 'reason'"),
        ({"train_seconds": "long"}, "ValidationError"),
        ({"alarms": 3}, "TypeError: 'int' object is not iterable"),
        ({"alarms": [{}]}, "KeyError: 'sentence'"),
        ({"status": "done"}, "ValidationError"),
    ],
)
def test_a_summary_of_another_form(run, capsys, change, why):
    path = run / "summary.json"
    whole = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in whole.items() if v is not ...}))
    text = said(capsys, "watch", str(run), "--once")
    assert text.startswith(f"error: {path}: damaged ({why}")
    assert text.endswith("Delete it, and compare again: the run continues.\n")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"per_sample": {"a": [1.0]}},
            "ValueError: 'a' has not one value for each of its 4 samples",
        ),
        ({"per_sample": {"a": 1.0}}, "ValueError: 'a' has not one value for each of its 4 samples"),
        ({"groups": ["x"]}, "ValueError: its groups have not one value for each of its 4 samples"),
    ],
)
def test_an_evaluation_of_another_form(run, capsys, change, why):
    path = run / "evaluations" / "step-00000003.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said(capsys, "watch", str(run), "--once") == (
        f"error: {path}: damaged ({why}). Delete it: it is made again.\n"
    )


def test_an_evaluation_is_read_as_it_was_written(run):
    data = json.loads((run / "evaluations" / "step-00000003.json").read_text())
    again = Evaluation.from_json(data)
    assert (
        len(again.ids) == len(again.groups) == 4
        and again.per_sample.keys() == data["per_sample"].keys()
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00"])
def test_an_error_that_a_full_disk_left_empty(run, content):
    (run / "error.txt").write_bytes(content)
    assert main(["watch", str(run), "--once"]) == 0
    page = (run / "watch.html").read_text()
    assert "error.txt, which should say why, is empty" in page or content.startswith(b"\xff")


def test_a_manifest_of_another_form(run, capsys):
    path = run / "manifest.json"
    path.write_text(json.dumps({"hardware": {"processes": "two"}}))
    text = said(capsys, "watch", str(run), "--once")
    assert text.startswith(f"error: {path}: damaged (ValueError: invalid literal for int()")


# -- pictures ------------------------------------------------------------------------------------------------------


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (200, 100, 50)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_formats_that_run_programs_are_not_opened():
    """Pillow reads EPS by Ghostscript, whatever the file is called."""
    with pytest.raises(DataError) as caught:
        decoded(encoded("EPS"), "x.png")
    assert str(caught.value) == (
        "x.png: not a readable image (UnidentifiedImageError: expected PNG, JPEG, WEBP, BMP)"
    )


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_what_is_damaged_inside_is_a_sentence():
    """Every byte of the notes of a camera is changed in turn: decoders raise errors of many kinds."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    sound = encoded("JPEG", exif=exif)
    assert decoded(sound, "x.jpg").size == (8, 12)
    refused = 0
    for place in range(2, 110):
        for value in (0, 0x7F, 0xFF):
            data = bytearray(sound)
            data[place] = value
            try:
                assert decoded(bytes(data), "x.jpg").mode == "RGB"
            except DataError as error:
                refused += 1
                assert str(error).startswith("x.jpg: ")
    assert refused > 0


def test_a_report_embeds_no_other_format(tmp_path):
    pytest.importorskip("plotly")
    from rewardft.comparisons.report.pictures import embed

    (tmp_path / "a.png").write_bytes(encoded("EPS"))
    with pytest.raises(OSError, match="cannot identify image file"):
        embed(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    assert embed(tmp_path / "b.png").startswith("data:image/png;base64,")


def test_a_soup_of_a_strength_that_is_none(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    path = other / "adapter" / "adapter_config.json"
    for alpha in ("NaN", "Infinity", "1" + "0" * 400, '"two"'):
        config = json.loads(path.read_text())
        shown = (
            "nan" if alpha == "NaN" else "inf" if alpha == "Infinity" else alpha.replace('"', "'")
        )
        path.write_text(
            json.dumps(config | {"lora_alpha": 0}).replace(
                '"lora_alpha": 0', f'"lora_alpha": {alpha}'
            )
        )
        text = said(capsys, "soup", str(run), str(other), "--out", str(tmp_path / "soup"))
        assert text == (
            f"error: {path}: damaged: expected numbers for r, of at least 1, and lora_alpha, got 2 and {shown:.60}. It "
            "must be as peft writes it.\n"
        )
        path.write_text(json.dumps(config))
        assert not (tmp_path / "soup").exists()
    assert torch.isfinite(torch.tensor(config["lora_alpha"]))
