"""`rewardft ls --json`: the same as the tables, for other programs."""

import json

import pytest

from rewardft.cli import main
from rewardft.recipe.shipped import shipped_comparisons, shipped_recipes


def listed(capsys, *words):
    assert main(["ls", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_everything_by_kind(capsys):
    found = listed(capsys)
    assert [row["name"] for row in found["recipes"]] == list(shipped_recipes())
    assert [row["name"] for row in found["comparisons"]] == list(shipped_comparisons())
    rows = {row["name"]: row for row in found["rewards"]}
    assert rows["brightness"]["plugin"] == "toy"
    assert rows["brightness"]["summary"].startswith("Minus the squared distance")
    assert found["not_listed"] == []


def test_one_kind_of_named_plugins(capsys):
    assert listed(capsys, "models", "-p", "toy") == {
        "models": [
            {
                "name": "toy",
                "plugin": "toy",
                "summary": "A model family in a few lines: what "
                "`rewardft.contracts.protocols.DiffusionModel` asks for.",
            }
        ],
        "not_listed": [],
    }


@pytest.mark.parametrize("kind", ["recipes", "samplers"])
def test_the_table_has_the_same_names(kind, capsys):
    names = [row["name"] for row in listed(capsys, kind)[kind]]
    assert main(["ls", kind]) == 0
    # Below the title and the heading.
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split()[0] for row in rows] == names
