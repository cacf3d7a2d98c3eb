"""A compiled engine small enough to see through: Adam with averaging on minibatches, a chunk of steps a call.

Its state has everything that a state can have: arrays, a key, an optax state, counters.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jensen.core import keys
from jensen.engines.engine import Ticks
from jensen.families.meanfield import DiagonalGaussian

OPTIMIZER = optax.adam(0.01)


def data(rows=20_000, columns=50):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns))
    return x, (rng.random(rows) < 1 / (1 + np.exp(-x @ rng.standard_normal(columns)))).astype(float)


def step(size, data, state, _):
    """One Adam step of a logistic regression on the next block of rows, with noise."""
    x, y = data
    mean, optimizer, key, average, number = state
    start = (number * size) % (len(y) - size + 1)
    rows = jax.lax.dynamic_slice_in_dim(x, start, size), jax.lax.dynamic_slice_in_dim(y, start, size)
    key, own = jax.random.split(key)
    z = mean + 0.1 * jax.random.normal(own, mean.shape)

    def loss(z):
        logits = rows[0] @ z
        return (jnp.logaddexp(0.0, logits) - rows[1] * logits).mean()

    value, gradient = jax.value_and_grad(loss)(z)
    move, optimizer = OPTIMIZER.update(gradient, optimizer)
    mean = optax.apply_updates(mean, move)
    average = average + (mean - average) / (number + 1)
    return (mean, optimizer, key, average, number + 1), value


@partial(jax.jit, static_argnums=(0, 1))
def scan(size, length, data, state):
    return jax.lax.scan(partial(step, size, data), state, length=length)


@dataclass(frozen=True)
class ScanEngine:
    total: int = 1000
    chunk: int = 50
    batch: int = 100

    def init(self, target, seed):
        mean = jnp.zeros(target[0].shape[1])
        return {"scan": (mean, OPTIMIZER.init(mean), keys.key(seed, "toy"), mean, jnp.array(0)), "taken": 0}

    def advance(self, state, target):
        scanned, loss = scan(self.batch, self.chunk, target, state["scan"])
        taken = state["taken"] + self.chunk
        note = f"{taken} steps" if taken % 500 == 0 else ""
        return {"scan": scanned, "taken": taken}, Ticks(np.asarray(loss), done=taken >= self.total, note=note)

    def finish(self, state):
        average = np.asarray(state["scan"][3])
        return DiagonalGaussian(average, np.zeros_like(average))

    def converged(self, state):
        return state["taken"] >= self.total
