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
    with pytest.raises(DataError, match=r"edits.jsonl:1: '0.png' is not a readable picture"):
        Edits(str(table))[0]


def test_too_many_held_out(table):
    with pytest.raises(DataError) as caught:
        Edits(str(table), held_out=3)
    assert str(caught.value) == "held_out 3 leaves nothing of 3 pictures to train on"


def pictures(seed, size=8):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


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
