"""Edits: the table of pictures and instructions, and the reward for what they leave alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.editing.data import Edits
from rewardft_plugins.editing.preservation import preservation

from rewardft import Batch
from rewardft.errors import DataError, RewardError
from rewardft.testing import check_reward, make_rollout


@pytest.fixture
def table(tmp_path):
    """Six rows on three pictures of 24x16 pixels, red on the left."""
    rows = []
    for n in range(3):
        pixels = np.zeros((16, 24, 3), dtype=np.uint8)
        pixels[:, :12, 0] = 255
        pixels[..., 1] = 40 * n
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"mask{n}.png")
        for text in ("make it blue", "add snow"):
            rows.append({"image": f"{n}.png", "prompt": text, "mask": f"mask{n}.png"})
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_rows(table):
    edits = Edits(str(table), height=8, width=8)
    assert len(edits) == 6
    item = edits[3]
    assert (item["id"], item["prompt"]) == ("4", "add snow")
    assert item["image"].shape == (3, 8, 8) and item["mask"].shape == (1, 8, 8)
    assert item["image"][0, :, :3].min() > 0.9 and item["image"][0, :, 5:].max() < 0.1
    assert torch.allclose(item["image"][1], torch.full((8, 8), 40 / 255), atol=0.01)
    assert torch.equal(item["mask"][0], item["image"][0])


def test_all_rows_of_a_picture_are_on_one_side(table):
    sides = [Edits(str(table), 8, 8, split, held_out=1) for split in ("train", "val")]
    pictures = [{row["image"] for row in side.rows} for side in sides]
    assert [len(side) for side in sides] == [4, 2] and not pictures[0] & pictures[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "0.png"}', "expected an object with `image`, `prompt` and maybe `mask`, `source`, `target`, `group`; got image"),
        ("[1]", "got list"),
        ("{", "expected a JSON object on one line ("),
        ("[" * 100000, "expected a JSON object on one line (maximum recursion depth"),
        ('{"image": "0.png", "prompt": "x", "prompt": "y"}', "expected a JSON object on one line (the key 'prompt' is repeated)"),
        ('{"image": "0.png", "prompt": 3}', "expected 'prompt' to be text, got int"),
        ('{"image": "0.png", "prompt": "x"}', "expected the keys of the first line (image, mask, prompt), got image, prompt"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(table, line, message):
    table.write_text(table.read_text() + "\n" + line)
    with pytest.raises(DataError) as caught:
        Edits(str(table))
    assert str(caught.value).startswith(f"{table}:7: ") and message in str(caught.value)


def test_pictures_that_are_missing(table):
    (table.parent / "0.png").unlink()
    with pytest.raises(DataError, match=r"edits.jsonl:[12]: there is no picture '0.png'"):
        Edits(str(table))
    (table.parent / "0.png").write_bytes((table.parent / "1.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"edits.jsonl:1: '0.png': not a readable image"):
        Edits(str(table))[0]
    with (table.parent / "1.png").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(
        DataError, match=r"edits.jsonl:3: '1.png' cannot be read \(.*268,435,457 bytes"
    ):
        Edits(str(table))[2]


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("kind", ["beside", "above", "absolute"])
def test_a_table_shows_nothing_from_outside_its_folder(table, key, kind):
    inside = table.parent / "below"
    (inside / "x").mkdir(parents=True)
    name = {
        "beside": "../0.png",
        "above": "x/../../0.png",
        "absolute": str(table.parent / "0.png"),
    }[kind]
    (inside / "1.png").write_bytes((table.parent / "1.png").read_bytes())
    row = {"image": "1.png", "mask": "./x/../1.png", "prompt": "x"} | {key: name}
    file = inside / "edits.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        Edits(str(file))
    assert str(caught.value) == (
        f"{file}:1: {name!r} leads out of the folder of the table; pictures lie beside it or in "
        "folders below"
    )


def one_row(folder, **row):
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"image": "0.png", "prompt": "x"} | row), encoding="utf-8")
    return Edits(str(path), height=8, width=8)


def test_pictures_of_every_kind(table):
    """Hidden colours stay hidden, 16 bits are scaled, grey gets three channels, cameras are believed."""
    folder = table.parent
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    clear[:, :4] = (255, 0, 0, 255)
    clear[:, 4:] = (0, 255, 0, 0)
    Image.fromarray(clear).save(folder / "clear.png")
    image = one_row(folder, image="clear.png")[0]["image"]
    assert image[:, 4, 1].tolist() == [1.0, 0.0, 0.0] and image[:, 4, 6].tolist() == [1.0, 1.0, 1.0]
    Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)).save(folder / "deep.png")
    deep = one_row(folder, image="deep.png")[0]["image"]
    assert torch.allclose(deep, torch.full((3, 8, 8), 100 / 255))
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, 8:] = 255
    facts = Image.Exif()
    facts[0x0112] = 6  # a quarter turn clockwise brings the left edge to the top
    Image.fromarray(pixels).save(folder / "turned.png", exif=facts)
    turned = one_row(folder, image="turned.png")[0]["image"]
    assert turned[:, 0].max() < 0.1 and turned[:, -1].min() > 0.9


def test_a_mask_of_another_shape(table):
    Image.new("L", (16, 16)).save(table.parent / "square.png")
    edits = one_row(table.parent, mask="square.png")
    with pytest.raises(DataError) as caught:
        edits[0]
    assert str(caught.value).endswith(
        "one.jsonl:1: the mask has 16 x 16 pixels and the picture 24 x 16: they must have one shape"
    )
    Image.new("L", (12, 8)).save(table.parent / "half.png")
    assert one_row(table.parent, mask="half.png")[0]["mask"].shape == (1, 8, 8)


def test_odd_texts(table):
    """A line separator inside a text is none between lines, and a mark in front of the file is no text."""
    row = {"image": "0.png", "prompt": "two\u2028lines"}
    table.write_text("\ufeff" + json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert Edits(str(table))[0]["prompt"] == "two\u2028lines"
    for row, message in (
        (b'{"image": "0.png", "prompt": " "}', ":1: 'prompt' is empty"),
        (b'{"image": "0.png", "prompt": "\\ud800"}', ":1: expected a JSON object on one line (it has half of a surrogate pair, which is no letter)"),
        (b'{"image": "0.png", "prompt": "caf\xe9"}', ":1: expected UTF-8 (invalid continuation byte)"),
        (b'{"image": "0\\u0000.png", "prompt": "x"}', ":1: there is no picture '0\\x00.png'"),
    ):  # fmt: skip
        table.write_bytes(row)
        with pytest.raises(DataError) as caught:
            Edits(str(table))
        assert str(caught.value) == f"{table}{message}"


def test_too_many_held_out(table):
    with pytest.raises(DataError) as caught:
        Edits(str(table), held_out=3)
    assert str(caught.value) == "held_out 3 leaves nothing of 3 pictures to train on"


def pictures(seed):
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_preservation_by_hand():
    x0, before = pictures(0), pictures(1)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :, 4:] = 1.0
    batch = Batch(("a", "b"), (0, 0), {"image": before, "mask": mask})
    value = preservation(make_rollout(x0, batch), batch)
    change = (x0 - before).abs()
    assert torch.allclose(value, -torch.stack([change[0, :, :, :4].mean(), change[1].mean()]))
    plain = preservation(make_rollout(x0, batch), batch, mask=None)
    assert torch.allclose(plain, -change.flatten(1).mean(1))
    assert check_reward(preservation, x0, batch, differentiable=True).gradient_error < 0.05


def test_preservation_of_nothing_and_of_another_size():
    large = torch.full((2, 3, 16, 16), 0.25)
    x0 = torch.full((2, 3, 8, 8), 0.35)
    masks = torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
    batch = Batch(("a", "b"), (0, 0), {"image": large, "mask": masks})
    value = preservation(make_rollout(x0, batch), batch)
    assert value.isnan().tolist() == [True, False]
    assert torch.allclose(value[1], torch.tensor(-0.1))


def test_preservation_needs_pictures():
    batch = Batch(("a", "b"), (0, 0), {"prompt": ["x", "y"]})
    with pytest.raises(RewardError) as caught:
        preservation(make_rollout(pictures(0), batch), batch)
    assert (
        str(caught.value)
        == "preservation compares with batch['image'], and the data set gives: prompt"
    )
