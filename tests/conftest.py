"""How tests are run: offline, on one thread, the longest files first. What they share is in `helpers/fixtures.py`."""

import os

# Before any Hugging Face library reads it: a test that reaches for the network fails instead of waiting.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before numpy and scipy load their own: threads that wait for tiny matrices take twice the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
from pathlib import Path

import pytest

# Collecting tests imports everything: next to no garbage, and much to look through. See `pytest_collection_finish`.
gc.disable()

TESTS = Path(__file__).parent
_LONGEST = (
    "real/test_embedded_model.py",
    "jobs/reproduce/test_job.py",
    "jobs/explain/test_job.py",
    "hostile/test_shapes.py",
    "test_unchanged.py",
    "jobs/dpo/test_job.py",
    "hostile/test_damaged_results.py",
    "jobs/processes/test_shared_run.py",
    "model/test_families.py",
    "properties/test_spread.py",
    "cli/test_cli.py",
    "jobs/test_run.py",
    "hostile/test_no_network.py",
    "training/test_trainer.py",
    "jobs/reproduce/test_presets_whole.py",
    "jobs/pairs/test_job.py",
    "search/test_search.py",
    "pairs/test_pplm.py",
    "training/test_policy.py",
    "training/test_token_statistics.py",
    "training/test_trainable.py",
)
"""Files that take longest. A file stays on one worker, so these begin first and short ones fill the end.

The last three are here as they would be among the last."""


def pytest_configure(config: pytest.Config) -> None:
    """What tests share takes seconds to import, so a process that only hands tests to workers does without."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("helpers.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise as they were found."""
    place = {TESTS / name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Modules and tests, which live to the end, are no longer looked through for garbage.

    A training collects garbage each time it ends, which takes half a second with all of them and nothing without.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
