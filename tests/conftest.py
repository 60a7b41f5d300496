"""Before JAX is imported: the persistent compilation cache. After that: what needs the data folder is skipped without it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Set through the environment, which reaches subprocesses and workers too; what is already set is respected.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(Path.home() / ".cache" / "tightbound" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
for variable, setting in CACHE.items():
    os.environ.setdefault(variable, setting)

import jax  # noqa: E402
import pytest  # noqa: E402

# Tracing makes many objects and little garbage: looking for it as often as usual takes a fourteenth of the tests' time.
gc.set_threshold(200_000, 50, 100)

# These modules compile much and compute little: `make test` runs them without XLA's optimiser, sooner.
COMPILING = {
    "test_annotations", "test_browser", "test_cli", "test_combinations", "test_docs", "test_estimators", "test_evidence",
    "test_explorer", "test_frames", "test_gaps", "test_hierarchy", "test_likelihoods", "test_mixed", "test_networks",
    "test_objectives", "test_posteriors_priors", "test_proposals", "test_published", "test_recipes", "test_report",
    "test_sweeping", "test_tabular", "test_together",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def released() -> Iterator[None]:
    """Let go of a module's compiled programs: thousands of them take more memory maps than a process may have, and it dies."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what compiles; skip the tests marked ``data`` when no data folder is named."""
    for item in items:
        if item.path.stem in COMPILING:
            item.add_marker("compiling")
    if os.environ.get("TIGHTBOUND_DATA"):
        return
    skip = pytest.mark.skip(reason="TIGHTBOUND_DATA does not name a data folder")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)
