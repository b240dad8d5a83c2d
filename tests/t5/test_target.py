"""What programs are compiled with, by the platform that they are for."""

import jax
import jax.numpy as jnp
import pytest

from spot_jax.t5 import target


@pytest.fixture(autouse=True)
def asked_anew():
    target.compiler_options.cache_clear()
    yield
    target.compiler_options.cache_clear()


def test_a_cpu_has_options_of_its_own_unless_the_user_has_said_otherwise(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert target.compiler_options("tpu") is None
    (name,) = target.compiler_options("cpu")
    target.compiler_options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=individual_dot")
    assert target.compiler_options("cpu") is None


def test_an_option_that_jax_does_not_know_is_left_out(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(target, "_CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert target.compiler_options("cpu") is None
    double = target.Jitted(lambda x, *, times: times * x, static_argnames="times")
    assert double(jnp.float32(4), times=2) == 8


def test_a_function_is_compiled_once_for_all_calls_of_one_shape(monkeypatch):
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2 * x

    jitted = target.Jitted(double)
    for n in (3, 3, 4):
        assert jitted(jnp.ones(n)).sum() == 2 * n
    assert traced == [(3,), (4,)] and jitted.__wrapped__ is double
    assert isinstance(jitted(jnp.ones(3)), jax.Array)
