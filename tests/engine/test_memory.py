"""Memory does not grow with the number of trained or sampling steps; whose memory a peak is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
from types import SimpleNamespace
from rewardft.engine.memory import peak_memory
print(peak_memory(SimpleNamespace(type="cpu")))
"""
PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["through", "stopped"])
def test_peak_at_50_of_50_is_that_at_1_of_10(form):
    spec = importlib.util.spec_from_file_location("benchmark_memory", PATH)
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    few, many = memory.measure_fresh(form, 1, 10), memory.measure_fresh(form, 50, 50)
    assert few["gradient_norm"] > 0 and many["gradient_norm"] > 0
    # Plain autograd takes 15 times as much. What is left are fragments of the heap, see the results.
    assert many["peak_mb"] <= 1.15 * few["peak_mb"], (few, many)


def test_a_peak_is_that_of_the_process_and_not_of_the_one_that_started_it():
    large = bytearray(2**28)
    large[:: 2**10] = bytes([1]) * len(large[:: 2**10])  # every page is held
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 2**22 < int(done.stdout) < len(large)
