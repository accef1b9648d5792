"""Folders of pictures: what is read, how it is split, what is refused, and that a model learns from one."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.text2image.images import ImageFolder

from rewardft.errors import DataError
from rewardft.policy.batches import Stream
from rewardft.testing import check_dataset, run_recipe


def save(path, level, size=(24, 16)):
    """A picture that is `level` on the left and black on the right."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2] = level
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Six pictures, one of them in a folder of its own, and a table of them."""
    rows = []
    for n in range(6):
        name = f"{n}.png" if n else "first/0.png"
        save(tmp_path / name, 40 * n + 20)
        rows.append({"file_name": name, "text": f" picture {n}", "label": n % 2, "often": n})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def message(build):
    with pytest.raises(DataError) as error:
        build()
    return str(error.value)


def test_pictures_with_what_the_table_says(folder):
    data = ImageFolder(folder, 8, 8, columns=["label"])
    check_dataset(data)
    assert [(item["id"], item["prompt"], item["label"]) for item in data] == [
        ("first/0.png", "picture 0", 0),
        *((f"{n}.png", f"picture {n}", n % 2) for n in range(1, 6)),
    ]
    image = data[3]["image"]
    # The middle square of 24 x 16, at half the size: four columns of each half.
    assert image.shape == (3, 8, 8) and image.dtype == torch.float32
    assert torch.allclose(image[:, :, :3], torch.full((3, 8, 3), 140 / 255), atol=0.05)
    assert image[:, :, 5:].max() < 0.05
    assert "prompt" not in ImageFolder(folder, 8, 8, column=None)[0]


def test_the_sides_do_not_depend_on_the_order_of_the_rows(folder):
    def names(**options):
        return {item["id"] for item in ImageFolder(folder, 8, 8, **options).items}

    train, val = names(held_out=2), names(held_out=2, split="val")
    assert len(train) == 4 and len(val) == 2 and not train & val
    table = folder / "metadata.jsonl"
    table.write_text("\n".join(reversed(table.read_text().splitlines())))
    assert names(held_out=2, split="val") == val and len(names(limit=3)) == 3


def test_weights(folder):
    stream = Stream(ImageFolder(folder, 8, 8, weight="often"), 0)
    seen = [id_ for _ in range(25) for id_ in stream.next_batch(6).ids]
    # 150 draws of weights 0 to 5, in sum 15.
    assert "first/0.png" not in seen
    assert [seen.count(f"{n}.png") for n in range(1, 6)] == pytest.approx(
        [10, 20, 30, 40, 50], abs=8
    )


def test_a_csv_beside_the_pictures(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,text\n1.png,one\n2.png,two\n")
    data = ImageFolder(folder, 8, 8)
    assert [(item["id"], item["prompt"]) for item in data.items] == [
        ("1.png", "one"),
        ("2.png", "two"),
    ]


def test_a_folder_without_a_table(tmp_path):
    for n in (2, 1):
        save(tmp_path / f"{n}.PNG", 90)
        (tmp_path / f"{n}.txt").write_text(f"number {n}\n")
    (tmp_path / "notes.md").write_text("not a picture")
    data = ImageFolder(tmp_path, 8, 8)
    assert [(i["id"], i["prompt"]) for i in data.items] == [
        ("1.PNG", "number 1"),
        ("2.PNG", "number 2"),
    ]
    (tmp_path / "1.txt").unlink()
    assert message(lambda: ImageFolder(tmp_path)) == (
        f"{tmp_path / '1.PNG'}: there is no caption 1.txt beside it and no metadata.jsonl in the folder; with "
        "`column: null` none is needed"
    )
    assert len(ImageFolder(tmp_path, column=None)) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file_name": "9.png", "text": "x"}, ":2: there is no picture '9.png'"),
        ({"file_name": "a\0.png", "text": "x"}, ":2: there is no picture 'a\\x00.png'"),
        ({"text": "x"}, ":2: there is no column 'file_name'. Choose one of: text."),
        ({"file_name": 3, "text": "x"}, ":2: expected text in the column 'file_name', got int"),
        ({"file_name": "2.png", "txt": "x"}, ":2: there is no column 'text'. Did you mean 'txt'?"),
        ({"file_name": "2.png", "text": " "}, ":2: the text in the column 'text' is empty"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(folder, row, said):
    table = folder / "metadata.jsonl"
    first = {"file_name": "1.png", "text": "one"}
    table.write_text("\n".join(map(json.dumps, [first, row])))
    assert message(lambda: ImageFolder(folder)) == f"{table}{said}"


@pytest.mark.parametrize("name", ["id", "image", "prompt"])
def test_a_column_does_not_replace_what_an_item_has_of_its_own(folder, name):
    assert message(lambda: ImageFolder(folder, columns=["label", name])) == (
        f"image_folder: items have a {name!r} of their own, which the column {name!r} would replace; rename it in the "
        "file"
    )


def test_other_mistakes(folder):
    assert message(lambda: ImageFolder(folder / "none")) == (
        f"{folder / 'none'}: no such folder; expected one with pictures"
    )
    table = folder / "metadata.jsonl"
    table.write_text("\n".join(table.read_text().splitlines()[:1] * 2))
    assert (
        message(lambda: ImageFolder(folder))
        == f"{folder}: two rows are of the picture 'first/0.png'"
    )
    (folder / "metadata.csv").write_text("file_name,text\n")
    assert message(lambda: ImageFolder(folder)) == (
        f"{folder}: expected one table, got metadata.jsonl and metadata.csv"
    )
    table.unlink()
    assert message(lambda: ImageFolder(folder)) == (
        f"{folder}: there are no pictures in it (.png, .jpg, .jpeg, .webp, .bmp)"
    )
    (folder / "metadata.csv").write_text("file_name,text,w\n1.png,x,1\n2.png,x,nan\n")
    assert message(lambda: ImageFolder(folder, weight="w")) == (
        f"{folder / 'metadata.csv'}:3: expected a finite weight >= 0 in the column 'w', got 'nan'"
    )
    assert message(lambda: ImageFolder(folder, held_out=2)) == (
        f"{folder}: cannot hold out 2 of 2 different pictures"
    )


def test_a_picture_is_a_whole_one_from_inside_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    save(outside, 200)
    (folder / "1.png").write_bytes(b"GIF89a")
    (folder / "2.png").write_bytes((folder / "3.png").read_bytes()[:60])
    (folder / "3.png").unlink()
    (folder / "3.png").symlink_to(outside)
    data = ImageFolder(folder, 8, 8)
    for index, said in (
        (1, "not a readable image (UnidentifiedImageError: expected PNG, JPEG, WEBP, BMP)"),
        (2, "not a readable image ("),
        (3, f"'3.png' lies outside {folder}; give paths relative to it"),
    ):
        where = f"{folder}, picture '{index}.png': "
        assert message(lambda index=index: data[index]).startswith(where + said)
    (folder / "4.png").unlink()
    os.mkfifo(folder / "4.png")
    assert message(lambda: ImageFolder(folder)).endswith(":5: there is no picture '4.png'")


RECIPE = """\
plugins: [toy, text2image]
model:     {use: toy}
sampler:   {use: ddim, steps: 4}
data:      {use: image_folder, path: ., height: 8, width: 8, columns: [label], weight: often, batch_size: 3}
algorithm: {use: denoising}
adapter:   {kind: full}
optimizer: {use: adamw, lr: 1e-3}
train:     {steps: 30, log_every: 1}
"""


def test_a_model_learns_from_a_folder(folder):
    (folder / "recipe.yaml").write_text(RECIPE)
    run = run_recipe(folder / "recipe.yaml", folder / "run")
    losses = run.column("loss")
    assert run.summary["status"] == "finished" and sum(losses[-10:]) < sum(losses[:10])


def test_a_name_that_no_text_can_hold(tmp_path):
    """As archives of other systems leave them; the sides of a split are chosen by names."""
    save(tmp_path / "a.png", 200)
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert message(lambda: ImageFolder(tmp_path, 8, 8, column=None, held_out=0)) == (
        f"{tmp_path}: the name of the picture 'caf\\udce9.png' is not UTF-8; rename it"
    )
