"""Any input ends with 0 and the right result, or with 2 and a sentence, and changes nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings

from .properties import CLASSES, dataset_files, import_plugins, run_files

PREPARED = {
    "recipes": import_plugins,
    "overrides": import_plugins,
    "data sets": dataset_files,
    "run folders": run_files,
}
SHORT = {"data sets": 8, "run folders": 2}  # 20 of the others: seconds for all


def holds(name, examples):
    strategy, must_hold, _ = CLASSES[name]
    if name in PREPARED:
        PREPARED[name]()
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    setting = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=checks
    )
    setting(given(strategy)(must_hold))()


@pytest.mark.parametrize("name", CLASSES)
def test_some_inputs(name):
    holds(name, SHORT.get(name, 20))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_many_inputs(name):
    holds(name, max(int(20_000 * CLASSES[name][2]), 1))
