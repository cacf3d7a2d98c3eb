"""States to plain parts and back, through JSON, bit for bit and without running anything."""

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jensen.core import precision
from jensen.core.errors import FileError, UnsupportedError
from jensen.core.records import decode, encode
from jensen.engines.designs import Design
from jensen.families.fullrank import DenseGaussian


def there_and_back(value):
    tree, arrays = encode(value)
    return decode(json.loads(json.dumps(tree)), arrays)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        0.1,
        -0.0,
        5e-324,
        float("inf"),
        "",
        'word "\u00e9"',
        (),
        [],
        {},
        (1, (2, [3.0]), {"a": (None,)}),
    ]
    + [{1: "a", (2, "b"): [False]}, np.dtype("float32"), [1, "list", ["dict", []]]],
    ids=repr,
)
def test_plain_values(value):
    found = there_and_back(value)
    assert repr(found) == repr(value)
    assert type(found) is type(value)


def test_nan():
    assert np.isnan(there_and_back(float("nan")))


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int64", "uint8", "bool", "complex128", ">f4", "bfloat16"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_numpy_arrays(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.dtype(dtype))
    found = there_and_back(array)
    assert (found.dtype, found.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("value", [np.float64(0.1), np.float32(0.1), np.int32(3), np.bool_(True)])
def test_numpy_scalars_stay_scalars(value):
    found = there_and_back(value)
    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize("word", ["float64", "float32"])
def test_jax_arrays_keep_dtype_and_weakness(word):
    with precision.scope(word):
        strong, weak = jnp.arange(3) / 3, jnp.broadcast_to(jnp.asarray(0.1), (2, 2))
        assert weak.weak_type
        for array in (strong, weak, jnp.asarray(2), jnp.zeros((0, 2)), jnp.array([True]), jnp.ones(2, "bfloat16")):
            found = there_and_back(array)
            assert isinstance(found, jax.Array)
            assert (found.dtype, found.shape, found.weak_type) == (array.dtype, array.shape, array.weak_type)
            np.testing.assert_array_equal(found, array)


def test_another_precision_is_refused_not_rounded():
    with precision.scope("float64"):
        tree, arrays = encode(jnp.arange(3.0))
    with precision.scope("float32"), pytest.raises(FileError, match="float64.*float32"):
        decode(tree, arrays)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_keys(implementation):
    for key in (jax.random.key(7, impl=implementation), jax.random.split(jax.random.key(7, impl=implementation), 3)):
        found = there_and_back(key)
        assert found.dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(key))
    one = jax.random.key(7, impl=implementation)
    np.testing.assert_array_equal(jax.random.normal(there_and_back(one), 5), jax.random.normal(one, 5))


def test_optax_states_go_on_as_they_would():
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 20)), optax.ema(0.9))
    params = {"a": jnp.ones(3), "b": jnp.zeros(())}
    state = optimizer.init(params)

    def go(state, params):
        for _ in range(3):
            moves, state = optimizer.update(jax.tree.map(jnp.cos, params), state, params)
            params = optax.apply_updates(params, moves)
        return state, params

    middle = go(state, params)
    again = there_and_back(middle)
    assert jax.tree.structure(again) == jax.tree.structure(middle)
    jax.tree.map(np.testing.assert_array_equal, go(*again), go(*middle))


def test_types_of_jensen():
    value = {"q": DenseGaussian(np.arange(2.0), np.eye(2)), "design": Design(np.ones((2, 1)), np.ones(2) / 2)}
    found = there_and_back(value)
    assert type(found["q"]) is DenseGaussian
    assert type(found["design"]) is Design
    np.testing.assert_array_equal(found["q"].scale, np.eye(2))


def test_an_array_that_occurs_twice_is_stored_once():
    array = np.ones(3)
    tree, arrays = encode([array, (array,), np.ones(3)])
    assert len(arrays) == 2
    first, (second,), third = decode(tree, arrays)
    assert first is second
    assert third is not first


class _Loose:
    pass


@dataclass
class _Mine:
    value: float


_Pair = namedtuple("_Pair", "a b")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"update": [np.exp]}, r"state\['update'\]\[0\] is a numpy.ufunc"),
        ((1, lambda z: z), r"state\[1\] is a builtins.function"),
        (DenseGaussian(np.ones(1), _Loose()), r"state.scale is a .*_Loose"),
        (_Mine(1.0), "state is a .*_Mine"),
        (_Pair(1, 2), "state is a .*_Pair"),
        (OrderedDict(a=1), "OrderedDict"),
        ({_Loose(): 1}, "a key of state"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([None]), "dtype object"),
        ({1, 2}, "builtins.set"),
    ],
    ids=lambda value: None,
)
def test_everything_else_is_refused_with_its_place(value, said):
    with pytest.raises(UnsupportedError, match=said):
        encode(value)


def test_a_traced_array_is_refused():
    with pytest.raises(UnsupportedError, match="traced"):
        jax.jit(lambda x: encode(x)[0])(1.0)


@pytest.mark.parametrize(
    "tree",
    [
        ["dataclass", "os:_Environ", {}],
        ["dataclass", "subprocess:Popen", {"args": "true"}],
        ["dataclass", "jensen.fitting:fit", {}],
        ["dataclass", "jensen.nothing:Nothing", {}],
        ["dataclass", "jensen.models.target:Target", {}],
        ["namedtuple", "collections:OrderedDict", {}],
        ["dataclass", "jensen.families.fullrank:DenseGaussian", {"mean": 1}],
        ["dataclass", "jensenfake.families:DenseGaussian", {}],
        ["eval", "1"],
        ["array", 0],
    ],
    ids=str,
)
def test_what_a_file_may_not_say(tree):
    with pytest.raises(FileError):
        decode(tree, [])
