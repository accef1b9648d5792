"""The pair loader: folders, JSONL and parquet, and input that is broken or means harm."""

import base64
import io
import json
import re
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.dpo.pairs import PreferencePairs, ToyPairs

from rewardft.errors import DataError


def picture(value, size=(12, 8)):
    """A left half of one grey value and a right half of another."""
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[:, size[0] // 2 :] = value // 2
    return Image.fromarray(pixels)


def encoded(value):
    buffer = io.BytesIO()
    picture(value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for side, value in (("winner", 200), ("loser", 40)):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            picture(value + ord(name) - 97).save(tmp_path / side / f"{name}.png")
    (tmp_path / "winner" / "a.txt").write_text("a grey square\n")
    (tmp_path / "winner" / "b.txt").write_text("another")
    return tmp_path


def lines(path, *records):
    path.write_text("\n".join(json.dumps(r) if isinstance(r, dict) else r for r in records))
    return path


def message(path, *index, **options):
    with pytest.raises(DataError) as error:
        data = PreferencePairs(path, **options)
        data[index[0] if index else 0]
    return str(error.value)


def left(image):
    """The grey value of the left half."""
    return round(float(image[:, :, 0].mean()) * 255)


def test_a_folder_of_pairs(folder):
    data = PreferencePairs(folder, size=8)
    assert len(data) == 2 and [data[i]["id"] for i in range(2)] == ["a", "b"]
    item = data[1]
    assert set(item) == {"id", "winner", "loser", "prompt"} and item["prompt"] == "another"
    assert item["winner"].shape == (3, 8, 8) and item["winner"].dtype == torch.float32
    assert (left(item["winner"]), left(item["loser"])) == (201, 41)


def test_the_middle_square_is_kept(tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    for side in ("winner", "loser"):
        (tmp_path / side).mkdir()
        Image.fromarray(wide).save(tmp_path / side / "x.png")
    assert torch.equal(PreferencePairs(tmp_path, size=8)[0]["winner"], torch.ones(3, 8, 8))


def test_an_image_without_its_counterpart_is_an_error(folder):
    (folder / "loser" / "b.png").unlink()
    assert message(folder) == (
        f"{folder}: every image needs its counterpart of the same name in winner/ and loser/; 1 have none, the first is 'b'"
    )


def test_two_images_of_one_name_are_an_error(folder):
    shutil.copy(folder / "loser" / "b.png", folder / "loser" / "b.jpg")
    assert message(folder) == (
        f"{folder / 'loser'}: b.jpg and b.png belong to one pair; give each picture a name of its own"
    )


def test_a_missing_side_is_an_error(folder):
    assert message(folder, winner="good") == (
        f"{folder / 'good'}: no such folder; a folder of pairs has one sub-folder for each side"
    )


def test_jsonl_with_paths_and_embedded_images(folder):
    inline = {"base64": base64.b64encode(encoded(90)).decode()}
    path = lines(
        folder / "pairs.jsonl",
        {
            "id": "first",
            "winner": "winner/a.png",
            "loser": "loser/a.png",
            "prompt": "p",
            "label": 3,
            "extra": [1],
        },
        "",
        {"winner": inline, "loser": {"path": "loser/b.png"}, "prompt": "q", "label": 1},
    )
    data = PreferencePairs(path, size=8)
    assert [r["id"] for r in (data[0], data[1])] == [
        "first",
        "3",
    ]  # the line number, where a line has no id
    assert set(data[0]) == {"id", "winner", "loser", "prompt", "label"} and data[0]["label"] == 3
    assert (left(data[1]["winner"]), left(data[1]["loser"])) == (90, 41)


def test_a_preference_column_orders_the_pair_and_drops_ties(folder):
    row = {"one": "winner/a.png", "two": "loser/a.png"}
    path = lines(folder / "p.jsonl", *({**row, "label_0": value} for value in (1, 0, 0.5, 1.0)))
    data = PreferencePairs(path, size=8, winner="one", loser="two", preference="label_0")
    assert [(data[i]["id"], left(data[i]["winner"])) for i in range(len(data))] == [
        ("1", 200),
        ("2", 40),
        ("4", 200),
    ]
    bad = lines(folder / "q.jsonl", {**row, "label_0": 0.7})
    assert message(bad, winner="one", loser="two", preference="label_0") == (
        f"{bad}, pair '1': 'label_0' must be 0, 0.5 or 1, got 0.7"
    )


def test_limit_and_ids(folder):
    row = {"winner": "winner/a.png", "loser": "loser/a.png"}
    path = lines(folder / "p.jsonl", {**row, "id": 7}, {**row, "id": "7"})
    assert message(path) == f"{path}: two pairs have the id '7'; ids must be unique"
    assert len(PreferencePairs(path, limit=1)) == 1
    assert (
        message(path, limit=0)
        == "preference_pairs: size and limit must be at least 1, got 512 and 0"
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", ":1: not valid JSON (Expecting property name"),
        ("[1, 2]", ":1: expected an object with two images, got list"),
        ("[" * 100_000, ":1: not valid JSON ("),
        ('{"winner": "w.png"}', ", pair '1': the field 'loser' is missing; it has id, winner"),
        (
            '{"winner": "w.png", "loser": null}',
            ", pair '1': the field 'loser' is missing; it has id, winner, loser",
        ),
    ],
)
def test_broken_lines_are_named(tmp_path, line, text):
    path = lines(tmp_path / "p.jsonl", line)
    assert f"{path}{text}" in message(path)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nowhere.png", "'nowhere.png' cannot be read ("),
        ("../secret.png", "'../secret.png' lies outside"),
        ("/etc/hostname", "'/etc/hostname' lies outside"),
        ("link.png", "'link.png' lies outside"),
        ("a\0b.png", r"'a\x00b.png' cannot be read ("),
        (".", "'.' cannot be read ("),
        (3, "expected a path, bytes, or an object with bytes, base64 or path; got int"),
        (
            {"url": "x"},
            "expected a path, bytes, or an object with bytes, base64 or path; got an object with url",
        ),
        ({}, "got an object with nothing"),
        ({"base64": "a!"}, "not valid base64 ("),
        ({"base64": ""}, "not a readable image (UnidentifiedImageError"),
        (
            {"base64": base64.b64encode(b"<svg/>").decode()},
            "not a readable image (UnidentifiedImageError",
        ),
        ({"base64": base64.b64encode(encoded(9)[:60]).decode()}, "not a readable image ("),
    ],
)
def test_hostile_images_are_data_errors_that_name_the_pair(tmp_path, source, text):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(5))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    path = lines(root / "p.jsonl", {"winner": source, "loser": source})
    got = message(path)
    assert got.startswith(f"{path}, pair '1', 'winner': ") and text in got


@pytest.mark.parametrize("count", [20_000, 12_000])
def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path, count):
    """A PNG header of 400 (144) megapixels in front of nothing: pillow's own limit, as an error, not a warning."""
    header = struct.pack(">IIBBBBB", count, count, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    data = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 99) + b"IDAT"
    inline = {"base64": base64.b64encode(data).decode()}
    assert "exceeds limit" in message(
        lines(tmp_path / "p.jsonl", {"winner": inline, "loser": inline})
    )


def test_every_truncation_of_an_image_is_a_data_error_or_the_image(tmp_path):
    whole = encoded(77)
    for cut in range(0, len(whole), 3):
        inline = {"base64": base64.b64encode(whole[:cut]).decode()}
        path = lines(tmp_path / "p.jsonl", {"winner": inline, "loser": inline})
        try:
            assert left(PreferencePairs(path, size=8)[0]["winner"]) == 77, cut
        except DataError as error:
            assert str(error).startswith(f"{path}, pair '1', 'winner': not a readable image (")
        else:
            assert cut > len(whole) - 25  # all pixels are there, the end marker is not


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "none.jsonl",
            ": no such file or folder; expected a folder, a .jsonl or a .parquet file of pairs",
        ),
        (
            "pairs.csv",
            ": expected a folder, a .jsonl or a .parquet file of pairs, got the suffix '.csv'",
        ),
        ("empty.jsonl", ": there are no pairs in it"),
        ("latin.jsonl", ":1: expected UTF-8 (invalid continuation byte)"),
    ],
)
def test_sources_that_are_no_sources(tmp_path, name, text):
    (tmp_path / "pairs.csv").write_text("a,b")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    assert message(tmp_path / name).startswith(f"{tmp_path / name}{text}")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "p.parquet").write_bytes(b"")
    assert message(tmp_path / "p.parquet") == (
        f"{tmp_path / 'p.parquet'}: reading parquet needs the package pyarrow (pip install pyarrow)"
    )


def test_parquet_with_embedded_images_and_a_preference(tmp_path):
    """The columns of Pick-a-Pic: two encoded images, and which one was preferred."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "p.parquet"
    columns = {
        "jpg_0": [encoded(10), encoded(20)],
        "jpg_1": [encoded(30), encoded(40)],
        "label_0": [0.0, 1.0],
        "caption": ["a", "b"],
    }
    parquet.write_table(pyarrow.table(columns), path)
    data = PreferencePairs(path, size=8, winner="jpg_0", loser="jpg_1", preference="label_0")
    assert [
        (left(data[i]["winner"]), left(data[i]["loser"]), data[i]["caption"]) for i in (0, 1)
    ] == [
        (30, 10, "a"),
        (20, 40, "b"),
    ]
    path.write_bytes(path.read_bytes()[:100])
    assert re.match(rf"{re.escape(str(path))}: not a readable parquet file \(", message(path))


def test_toy_pairs_have_brighter_winners():
    data = ToyPairs(size=8)
    assert len(data) == 8 and set(data[0]) == {"id", "winner", "loser", "label", "group"}
    for i in range(8):
        winner, loser = data[i]["winner"], data[i]["loser"]
        assert loser.min() >= 0 and winner.max() <= 1 and float((winner - loser).min()) >= 0.59
    assert data[0]["id"] == "train/0" and ToyPairs(split="val")[0]["id"] == "val/0"


def test_prompts_come_by_the_same_door_as_other_text(folder):
    """A byte-order mark is no part of a prompt, and a pipe is not waited for."""
    (folder / "winner" / "a.txt").write_bytes(b"\xef\xbb\xbfa grey square\r\n")
    assert PreferencePairs(folder, size=8)[0]["prompt"] == "a grey square"
    (folder / "winner" / "a.txt").write_bytes("a dog".encode("utf-16"))
    assert message(folder) == (
        f"{folder}/winner/a.txt:1: not UTF-8 text (byte 0xff); save the file as UTF-8."
    )
