"""What every test gets: the caller's JAX precision is theirs, and property tests repeat exactly."""

import gc

import hypothesis
import jax
import pytest

# Compilation makes first examples slow, and a test that fails must fail again: no deadline, no random seed.
hypothesis.settings.register_profile("jensen", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jensen")


@pytest.fixture(autouse=True, scope="module")
def garbage():
    """After each file, take what is left out of the collector's sight: programs are kept, and there are gigabytes of them."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def precision_unchanged():
    """Fail a test that leaves `jax_enable_x64` other than it found it, and put the setting back."""
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    if after != before:
        jax.config.update("jax_enable_x64", before)
    assert after == before, f"jax_enable_x64 was {before} before this test and {after} after it"


@pytest.fixture
def without_flow(monkeypatch):
    """`auto` without its last rung, for tests that are about something else: a flow is two thousand steps."""
    from jensen.diagnostics import ladder

    monkeypatch.setattr(ladder, "_LARGEST_FLOW", 0)
