"""Prompt files and class labels: what is read, how it is split, and what is refused."""

import json
import os

import pytest
from rewardft_plugins.text2image.data import ClassLabels, Prompts

from rewardft.errors import DataError
from rewardft.policy.batches import Stream, evaluation_batches

ROWS = [{"name": f"n{i}", "prompt": f"prompt {i}", "label": i % 3} for i in range(10)]
OPTIONS = {"columns": ["label"], "id_column": "name"}


def jsonl(path, rows=ROWS):
    path.write_text(
        "\n".join(json.dumps(row) if not isinstance(row, str) else row for row in rows) + "\n"
    )
    return str(path)


def message(build):
    with pytest.raises(DataError) as error:
        build()
    return str(error.value)


def parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")

    table = pytest.importorskip("pyarrow.parquet")
    table.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "p.parquet")
    return str(tmp_path / "p.parquet")


def saved(tmp_path, splits=None):
    datasets = pytest.importorskip("datasets", reason="saved folders need datasets")
    pyarrow = pytest.importorskip("pyarrow", reason="saved folders need pyarrow")

    def table(rows):
        memory = datasets.table.InMemoryTable(pyarrow.Table.from_pylist(rows))
        # Without a fingerprint of ours, pickle would be asked for one, which fails on new types of pyarrow.
        return datasets.Dataset(memory, fingerprint="rows")

    if splits is None:
        table(ROWS).save_to_disk(tmp_path / "saved")
    else:
        tables = {name: table(rows) for name, rows in splits.items()}
        datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


FORMATS = {
    "jsonl": lambda tmp_path: jsonl(tmp_path / "p.jsonl"),
    "parquet": parquet,
    "saved": saved,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_items(name, tmp_path):
    data = Prompts(FORMATS[name](tmp_path), **OPTIONS)
    assert [data[i] for i in range(len(data))] == [
        {"id": f"n{i}", "prompt": f"prompt {i}", "label": i % 3} for i in range(10)
    ]
    (batch,) = evaluation_batches(data, 2, 2)
    assert (
        batch.ids == ("n0", "n1")
        and batch["prompt"] == ["prompt 0", "prompt 1"]
        and batch["label"].tolist() == [0, 1]
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_column_is_named_with_the_one_that_was_meant(name, tmp_path):
    text = message(lambda: Prompts(FORMATS[name](tmp_path), column="promt"))
    assert text.endswith("there is no column 'promt'. Did you mean 'prompt'?")
    assert (":1: " in text) == (name == "jsonl")


def test_a_text_file_has_one_prompt_per_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\ufeffa red dog\n\n  a cat  \na red dog\n", encoding="utf-8")
    data = Prompts(str(path))
    assert [data[i] for i in range(3)] == [
        {"id": "0", "prompt": "a red dog"},
        {"id": "1", "prompt": "a cat"},
        {"id": "2", "prompt": "a red dog"},
    ]
    assert message(lambda: Prompts(str(path), columns=["label"])) == (
        f"{path}: a text file has no columns but the prompt; give label in a .csv or .jsonl"
    )


TABLE = """name,prompt,text,w

a,a shop sign,OPEN,2
"b,2","a door, ""red
and old",,0.5
c, a bus ,12,1e-1
"""


def csv(tmp_path, text=TABLE):
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return str(tmp_path / "p.csv")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_csv_holds_text(ends, tmp_path):
    """As spreadsheets write it: a mark first, quotes, a comma and a line end in a cell."""
    data = Prompts(
        csv(tmp_path, TABLE.replace("\n", ends)), columns=["text"], id_column="name", weight="w"
    )
    assert [data[i] for i in range(len(data))] == [
        {"id": "a", "prompt": "a shop sign", "text": "OPEN", "w": 2.0},
        {"id": "b,2", "prompt": f'a door, "red{ends}and old', "text": "", "w": 0.5},
        {"id": "c", "prompt": "a bus", "text": "12", "w": 0.1},
    ]
    assert data.sampling_weights == [2.0, 0.5, 0.1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,text\na,b\n\nc\n", ":4: expected 2 cells, as the heading has, got 1"),
        ('prompt,text\n"a\nb",c\nd,e,f\n', ":4: expected 2 cells, as the heading has, got 3"),
        ("prompt,prompt\na,b\n", ":1: the heading needs different names, got prompt, prompt"),
        ("prompt,\na,b\n", ":1: the heading needs different names, got prompt, "),
        ('prompt\n"a\n', ":2: not valid CSV (unexpected end of data)"),
        ("promt\na\n", ":2: there is no column 'prompt'. Did you mean 'promt'?"),
        ("prompt\n", ": there are no prompts in it"),
        ("", ": there are no prompts in it"),
    ],
)
def test_a_wrong_csv_is_named_by_its_line(text, said, tmp_path):
    path = csv(tmp_path, text)
    assert message(lambda: Prompts(path)) == path + said


@pytest.mark.parametrize("name", FORMATS)
def test_weights_follow_their_rows(name, tmp_path):
    """`label` of ROWS as weights: 0, 1, 2 in turn."""
    options = {"id_column": "name", "weight": "label", "held_out": 3}
    train, val = (Prompts(FORMATS[name](tmp_path), split=s, **options) for s in ("train", "val"))
    for data in (train, val):
        assert data.sampling_weights == [int(data[i]["id"][1:]) % 3 for i in range(len(data))]
    seen = [id_ for _ in range(20) for id_ in Stream(train, 0).next_batch(7).ids]
    assert not {"n0", "n3", "n6", "n9"} & set(seen)
    assert Prompts(FORMATS[name](tmp_path), id_column="name").sampling_weights is None


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, None, "two", [1], 10**400])
def test_a_wrong_weight_is_named_by_its_line(value, tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "w": 1}, {"prompt": "b", "w": value}])
    shown = f"{value!r:.60}"
    assert message(lambda: Prompts(path, weight="w")) == (
        f"{path}:2: expected a finite weight >= 0 in the column 'w', got {shown}"
    )


def test_a_missing_weight_is_named(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "weight": 1}])
    assert message(lambda: Prompts(path, weight="wieght")) == (
        f"{path}:1: there is no column 'wieght'. Did you mean 'weight'?"
    )


def test_a_column_does_not_replace_what_an_item_has_of_its_own(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"id": 7, "prompt": " a ", "text": "b"}])
    for name, column in (("id", "prompt"), ("prompt", "text")):
        assert message(lambda n=name, c=column: Prompts(path, column=c, columns=[n])) == (
            f"prompts: items have a {name!r} of their own, which the column {name!r} would replace; rename it in the "
            "file"
        )
    data = Prompts(path, columns=["id", "prompt"], id_column="id")
    assert data[0] == {"id": "7", "prompt": "a"}


def test_what_is_no_file_or_too_large_is_not_read(tmp_path):
    for name in ("p.txt", "p.csv", "p.jsonl"):
        path = tmp_path / name
        os.mkfifo(path)
        assert message(lambda: Prompts(str(path))).startswith(f"{path}: no such file or folder")
        path.unlink()
        with path.open("wb") as file:
            file.truncate(2**30 + 1)
        assert message(lambda: Prompts(str(path))) == (
            f"{path} has 1,073,741,825 bytes; at most 1,073,741,824 are read here."
        )


def test_held_out_prompts_stay_the_same_when_rows_move_and_equal_ones_stay_together(tmp_path):
    rows = [*ROWS, {"name": "again", "prompt": "prompt 3", "label": 0}]
    train = Prompts(jsonl(tmp_path / "a.jsonl", rows), **OPTIONS, held_out=3)
    val = Prompts(jsonl(tmp_path / "a.jsonl", rows), **OPTIONS, held_out=3, split="val")
    moved = Prompts(jsonl(tmp_path / "b.jsonl", rows[::-1]), **OPTIONS, held_out=3, split="val")
    sides = [{data[i]["prompt"] for i in range(len(data))} for data in (train, val, moved)]
    assert (
        len(sides[1]) == 3
        and sides[1] == sides[2]
        and not sides[0] & sides[1]
        and len(sides[0] | sides[1]) == 10
    )
    assert len(train) + len(val) == 11
    assert len(Prompts(jsonl(tmp_path / "a.jsonl", rows), **OPTIONS, held_out=3, limit=2)) == 2


def test_a_saved_folder_with_splits_of_its_own(tmp_path):
    path = saved(tmp_path, {"train": ROWS[:7], "validation": ROWS[7:]})
    assert len(Prompts(path)) == 7
    data = Prompts(path, split="validation", limit=2)
    assert [data[i]["prompt"] for i in range(len(data))] == ["prompt 7", "prompt 8"]
    assert message(lambda: Prompts(path, split="valid")) == (
        f"{path}: there is no split 'valid'. Did you mean 'validation'?"
    )
    assert message(lambda: Prompts(path, held_out=2)) == (
        f"{path} has splits of its own; leave `held_out` out and name one with `split`"
    )


@pytest.mark.parametrize(
    "rows, said",
    [
        (
            ['{"prompt": "a"', '{"prompt": "b"}'],
            ":1: not valid JSON (Expecting ',' delimiter: line 1 column 15 (char 14))",
        ),
        (['{"prompt": "a"}', '"b"'], ':2: expected an object like {"prompt": "..."}, got str'),
        (
            ['{"prompt": "a"}', "", '{"prompt": 3}'],
            ":3: expected text in the column 'prompt', got int",
        ),
        (['{"prompt": "a"}', '{"prompt": " "}'], ":2: the text in the column 'prompt' is empty"),
        (
            ['{"prompt": "a"}', '{"text": "b"}'],
            ":2: there is no column 'prompt'. Choose one of: text.",
        ),
        ([], ": there are no prompts in it"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(rows, said, tmp_path):
    path = jsonl(tmp_path / "p.jsonl", rows)
    assert message(lambda: Prompts(path)) == path + said


def test_other_mistakes(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 1}])
    assert (
        message(lambda: Prompts(path, id_column="n"))
        == f"{path}: two rows have '1' in the column 'n'; ids must differ"
    )
    assert (
        message(lambda: Prompts(path, held_out=2))
        == f"{path}: cannot hold out 2 of 2 different prompts"
    )
    assert message(lambda: Prompts(path, split="val")) == (
        f"{path}: `split: val` is empty; `held_out` says how many prompts it gets"
    )
    assert (
        message(lambda: Prompts(path, split="test"))
        == f"{path}: expected `split: train` or `split: val`, got 'test'"
    )
    assert (
        message(lambda: Prompts(path, limit=0))
        == "prompts: expected held_out >= 0 and limit >= 1, got 0 and 0"
    )
    missing = tmp_path / "none.txt"
    assert message(lambda: Prompts(str(missing))) == (
        f"{missing}: no such file or folder; expected prompts as .txt, .csv, .jsonl, .parquet or a saved folder"
    )
    (tmp_path / "p.tsv").write_text("prompt\na\n")
    assert message(lambda: Prompts(str(tmp_path / "p.tsv"))) == (
        f"{tmp_path / 'p.tsv'}: expected prompts as .txt, .csv, .jsonl or .parquet, got the suffix '.tsv'"
    )
    assert message(lambda: Prompts(str(tmp_path))) == (
        f"{tmp_path}: expected a folder that `save_to_disk` of the datasets library wrote, with state.json or "
        "dataset_dict.json"
    )
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9\n")
    assert message(lambda: Prompts(str(tmp_path / "bad.txt"))).startswith(
        f"{tmp_path / 'bad.txt'}:1: expected UTF-8 ("
    )


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    path = tmp_path / "p.parquet"
    path.write_bytes(b"not parquet")
    assert message(lambda: Prompts(str(path))).startswith(f"{path}: not a readable parquet file (")


def test_the_shipped_prompts():
    train, val = Prompts("shipped", held_out=16), Prompts("shipped", held_out=16, split="val")
    assert (len(train), len(val)) == (49, 16) and "a photo of a cat" in [
        train[i]["prompt"] for i in range(49)
    ]


def test_class_labels_take_their_turns():
    data = ClassLabels(classes=3, size=5, split="val")
    assert [data[i] for i in range(len(data))] == [
        {"id": f"val/{i}", "label": i % 3, "group": f"class{i % 3}"} for i in range(5)
    ]
    assert (
        message(lambda: ClassLabels(classes=0))
        == "class_labels: expected classes >= 1 and size >= 1, got 0 and 1000"
    )
