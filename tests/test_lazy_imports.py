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


def test_a_gaussian_fit_leaves_conjugacy_out():
    """What coordinate ascent and Gibbs chains need costs as much to import as a small fit takes."""
    code = (
        "import sys, jensen\n"
        "model = jensen.density(lambda p: -0.5 * (p['x'] ** 2).sum(), {'x': [0.0, 0.0]})\n"
        "posterior = jensen.fit(model, method='auto')\n"
        "posterior.summary(), posterior.draws(5000), repr(posterior)\n"
        "print('\\n'.join(name for name in sys.modules if name.startswith('jensen.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "jensen.engines.fixed_draws" in loaded
    engines = {f"jensen.engines.{name}" for name in ("coordinate", "gibbs", "large", "natural", "restarts")}
    assert not {name for name in loaded if name in engines or name.startswith("jensen.conjugate")}
