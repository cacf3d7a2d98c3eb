"""Start-up time is part of the product: heavy and optional packages load when they are used, not before."""

import subprocess
import sys

import pytest

HEAVY = ("pymc", "pytensor", "numpyro.infer", "arviz", "matplotlib", "sklearn", "flowjax", "pandas")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Names of the modules a fresh process has after `import jensen`."""
    code = "import sys, jensen; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", HEAVY)
def test_import_jensen_leaves_out(loaded, module):
    assert "jensen" in loaded
    assert module not in loaded


def test_import_leaves_jax_settings_alone():
    code = (
        "import os, jax; settings, variables = dict(jax.config.values), dict(os.environ); import jensen\n"
        "changed = [name for name, value in jax.config.values.items() if settings.get(name, value) != value]\n"
        "assert not changed, changed\n"
        "assert dict(os.environ) == variables"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
