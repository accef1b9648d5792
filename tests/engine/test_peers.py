"""`benchmarks/peers.py` and `benchmarks/speed.py`: what their tables say, and that their own sides run."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIDES = BENCHMARKS / "side_by_side"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it runs.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_row_compares_with_the_first():
    theirs = {"seconds": 3.0, "peak": 2500.0, "rest": 500.0}
    ours = {"seconds": 2.0, "peak": 1000.0, "rest": 500.0}
    assert load("peers").rows_of("draft_1", [("TRL", theirs), ("rewardft", ours)]) == [
        "| draft_1 | TRL | 3.00 | 1.00 | 2,500 | 1.00 | 1.00 |",
        "| draft_1 | rewardft | 2.00 | 1.50 | 1,000 | 0.40 | 0.25 |",
    ]


def test_the_grpo_case_says_what_it_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--only", "grpo", "--clone", str(tmp_path)])
    with pytest.raises(SystemExit):
        load("peers").main()
    wanted = "the case grpo needs --clone, a folder with flow_grpo's scripts/train_sd3.py"
    assert wanted in capsys.readouterr().err


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_a_call_takes_inside_another_is_not_counted_twice():
    class Parts:
        def outer(self):
            burn(0.02)
            self.inner()
            self.inner()

        def inner(self):
            burn(0.03)

    clock = load("speed").Clock()
    clock.watch(Parts, "outer", "outside")
    clock.watch(Parts, "inner", "inside")
    before = time.process_time()
    Parts().outer()
    spent = time.process_time() - before
    # Sums of processor time, not of the wall's: what else the machine does is in none of them.
    assert clock.spent["inside"] >= 0.06 and clock.spent["outside"] >= 0.02
    assert clock.spent["inside"] + clock.spent["outside"] <= spent
    assert clock.nested == pytest.approx(clock.spent.total())


def ours(case, folder):
    """The answers of this checkout's sides."""
    peers = load("peers")
    sys.path.insert(0, str(SIDES))
    try:
        from checkpoint import save
        from checkpoint_sd3 import pixels, save_sd3
    finally:
        sys.path.remove(str(SIDES))
    algorithm, trained, sides = peers.CASES[case]
    (save_sd3 if case == "grpo" else save)(folder, "tiny")
    spec = {"algorithm": algorithm, "trained": 4 if trained is None else trained}
    spec |= {"folder": str(folder), "pixels": pixels("tiny"), "clone": "", "guidance": 5.0}
    spec |= {"device": "cpu", "steps": 4, "batch": 2, "count": 2}
    answers = {}
    for side in sides:
        if side[1] in ("by_hand.py", "with_rewardft.py"):
            worker = peers.Worker(Path(sys.executable), side, spec)
            for _ in range(2):
                worker.step()
            answers[side[0]] = worker.end()
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("case", ["draft_1", "draft_all", "ddpo", "grpo"])
def test_our_sides_take_their_steps(case, tmp_path):
    answers = ours(case, tmp_path / "tiny")
    assert "rewardft" in answers
    for facts in answers.values():
        assert facts["seconds"] > 0 and facts["peak"] > facts["rest"] > 0


@pytest.mark.slow
def test_the_loop_by_hand_trains_the_weights_of_the_recipe(capsys, monkeypatch):
    speed = load("speed")
    monkeypatch.setattr(sys, "argv", ["speed.py", "toy"])
    monkeypatch.setattr(speed, "ROUNDS", {"toy": 1})
    speed.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| toy")]
    compared, divided = ([cell.strip() for cell in line.split("|")[2:-1]] for line in lines)
    assert float(compared[3]) < 1e-3
    shares = [float(cell.rstrip("%")) for cell in divided]
    assert sum(shares) == pytest.approx(100, abs=0.5) and min(shares[:4]) > 0
