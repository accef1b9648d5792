"""Memory does not grow with the number of trained or sampling steps."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["through", "stopped"])
def test_peak_at_50_of_50_is_that_at_1_of_10(form):
    spec = importlib.util.spec_from_file_location("benchmark_memory", PATH)
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    few, many = memory.measure_fresh(form, 1, 10), memory.measure_fresh(form, 50, 50)
    assert few["gradient_norm"] > 0 and many["gradient_norm"] > 0
    assert many["peak_mb"] <= 1.10 * few["peak_mb"], (few, many)
