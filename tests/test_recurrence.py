"""Every fast recurrence against the naive one: outputs, states, all gradients, running
statistics."""

import copy
import subprocess

import pytest
import torch
from tolerances import assert_close
from torch import nn

from qlstm import ConfigError, QuantLSTM
from qlstm.normalizers import NORMALIZERS, BatchNorm
from qlstm.recurrence import cpu

ROWS = [(q, n) for q in ("full_precision", "binary_connect", "ter_connect", "alternating")
        for n in NORMALIZERS]
ROWS += [(q, "batch_separate") for q in ("sbn", "stn")]
SHAPES = {"short": (7, 5, 3, 37), "odd": (13, 3, 4, 9), "two samples": (2, 2, 2, 33),
          "one step": (1, 4, 1, 1)}
"""T, N, D, d."""

needs_compiler = pytest.mark.skipif(isinstance(cpu.library(), str), reason=str(cpu.library()))


def pair(quantizer, normalizer, shape, dtype=torch.float64, layers=1, **settings):
    """The same layer on both backends, its parameters far from their initial values; input and
    states."""
    t, n, d_in, d = shape
    torch.manual_seed(1)
    naive = QuantLSTM(d_in, d, layers, quantizer=quantizer, normalizer=normalizer, max_steps=5,
                      backend="naive", **settings)
    with torch.no_grad():
        for name, parameter in naive.named_parameters():
            if "gain" in name or "shift" in name:
                parameter += 0.3 * torch.randn_like(parameter)
        for name, buffer in naive.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.5, 2)
            elif "running_mean" in name:
                buffer.normal_()
    naive = naive.to(dtype)
    fast = copy.deepcopy(naive)
    fast.backend = "cpu"
    x = torch.randn(t, n, d_in, dtype=dtype)
    return naive, fast, x, tuple(torch.randn(layers, n, d, dtype=dtype) for _ in range(2))


def evaluate(layer, x, state):
    """All outputs and gradients by name, for random cotangents of output and last state; running
    statistics after it."""
    x, state = x.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in state)
    torch.manual_seed(2)  # stochastic quantizers
    output, (h, c) = layer(x, state)
    torch.manual_seed(3)
    loss = sum((value * torch.randn_like(value)).sum() for value in (output, h, c))
    names = ["x", "h_0", "c_0", *(name for name, _ in layer.named_parameters())]
    gradients = torch.autograd.grad(loss, [x, *state, *layer.parameters()])
    found = {"output": output, "h": h, "c": c} | {
        f"gradient of {k}": g for k, g in zip(names, gradients, strict=True)}
    return found | {name: value for name, value in layer.state_dict().items() if "running" in name}


def assert_equal(naive, fast, tolerance):
    """By name, so that a failure says what differs."""
    for name, value in naive.items():
        try:
            assert_close(fast[name], value, tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@needs_compiler
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("quantizer", "normalizer"), ROWS, ids="-".join)
def test_cpu_equals_naive(quantizer, normalizer, shape, training):
    naive, fast, x, state = pair(quantizer, normalizer, shape)
    results = [evaluate(layer.train(training), x, state) for layer in (naive, fast)]
    assert fast.backend_used == "cpu"
    assert_equal(*results, "float64")


@needs_compiler
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_cpu_in_float32_is_as_exact_as_naive(normalizer):
    naive, fast, x, state = pair("ter_connect", normalizer, (35, 20, 8, 70), torch.float32)
    exact = evaluate(copy.deepcopy(naive).double(), x.double(), tuple(s.double() for s in state))
    errors = []
    for layer in (naive, fast):
        found = evaluate(layer, x, state)
        errors.append({k: (found[k].double() - exact[k]).norm() / exact[k].norm() for k in exact})
    for name, error in errors[1].items():
        assert error < max(3 * errors[0][name], 3e-6), (name, error, errors[0][name])


@needs_compiler
def test_two_layers_with_many_units_and_threads():
    naive, fast, x, state = pair("bwn", "batch_shared", (4, 33, 6, 130), layers=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        results = [evaluate(layer, x, state) for layer in (naive, fast)]
        torch.set_num_threads(1)
        alone = evaluate(copy.deepcopy(fast), x, state)
    finally:
        torch.set_num_threads(threads)
    assert_equal(*results, "float64")
    again = evaluate(copy.deepcopy(fast), x, state)
    assert all(torch.equal(alone[k], again[k]) for k in alone if "running" not in k)


@needs_compiler
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_reads_no_memory_that_it_has_not_written(normalizer):
    naive, fast, x, state = pair("binary_connect", normalizer, SHAPES["short"])
    expected = evaluate(naive, x, state)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.empty(3).isnan().all()
        assert_equal(expected, evaluate(fast, x, state), "float64")
    finally:
        torch.use_deterministic_algorithms(False)


@needs_compiler
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_without_gradients_and_twice(normalizer):
    naive, fast, x, state = pair("binary_connect", normalizer, SHAPES["short"])
    with torch.no_grad():
        assert_close(fast.eval()(x, state)[0], naive.eval()(x, state)[0], "float64")
    output, _ = fast.train()(x, state)
    first = torch.autograd.grad(output.sum(), fast.weight_hh_l0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(output.sum(), fast.weight_hh_l0)[0])


@needs_compiler
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_shared"])
def test_numbers_that_are_none_stay_so(normalizer, value):
    naive, fast, x, state = pair("full_precision", normalizer, SHAPES["short"], torch.float32)
    x[3, 1, 0] = value
    expected, found = (layer(x, state)[0] for layer in (naive, fast))
    assert torch.equal(expected.isnan(), found.isnan())


@needs_compiler
def test_trained_run_agrees():
    def train(layer, x, state):
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            loss = (layer(x, state)[0] - 0.5).square().mean()
            loss.backward()
            optimizer.step()
        return loss.detach()

    naive, fast, x, state = pair("full_precision", "layer", (5, 6, 3, 20))
    assert_close(train(fast, x, state), train(naive, x, state), "float64_trained")


def test_unknown_things_go_to_naive():
    layer = QuantLSTM(3, 4, normalizer=nn.LayerNorm(4))
    layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "naive"
    layer.backend = "cpu"
    with pytest.raises(
        ConfigError, match="backend 'cpu' cannot run this: it knows the study's normalizers only"
    ):
        layer(torch.zeros(2, 2, 3))


@pytest.mark.parametrize("compiler", ["", "false"], ids=["no compiler", "a compiler that fails"])
def test_without_a_compiler_auto_is_naive(monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu.shutil, "which", lambda name: compiler or None)
    cpu.library.cache_clear()
    try:
        layer = QuantLSTM(3, 4)
        layer(torch.zeros(2, 2, 3))
        assert layer.backend_used == "naive"
        layer.backend = "cpu"
        with pytest.raises(ConfigError, match=r"no C\+\+ compiler|cannot compile cpu\.cpp"):
            layer(torch.zeros(2, 2, 3))
    finally:
        cpu.library.cache_clear()


@needs_compiler
def test_compiled_once_and_again_after_a_change(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls, run = [], subprocess.run
    monkeypatch.setattr(cpu.subprocess, "run", lambda *a, **k: calls.append(a) or run(*a, **k))
    try:
        for _ in range(2):
            cpu.library.cache_clear()
            assert not isinstance(cpu.library(), str)
        assert len(calls) == 1
        monkeypatch.setattr(cpu, "FLAGS", [*cpu.FLAGS, "-DANOTHER"])
        cpu.library.cache_clear()
        assert not isinstance(cpu.library(), str)
        assert len(calls) == 2
        assert len(list((tmp_path / "qlstm").iterdir())) == 2
    finally:
        cpu.library.cache_clear()


@pytest.mark.parametrize("own_steps", [None, 1, 3, 9])
def test_statistics_of_all_steps_at_once(own_steps):
    torch.manual_seed(0)
    one, other = (BatchNorm((4, 6), 5, own_steps).double() for _ in range(2))
    products = torch.randn(7, 8, 4, 6, dtype=torch.float64)
    for t, product in enumerate(products):
        one(product, t)
    other.update(products.mean(1).flatten(1), products.var(1, correction=0).flatten(1), samples=8)
    assert_close(other.running_mean, one.running_mean, "formula")
    assert_close(other.running_var, one.running_var, "formula")
    mean, var = one.running_statistics(12)
    for t in range(12):
        step = min(t, len(one.running_mean) - 1)
        assert torch.equal(mean[t], one.running_mean[step])
        assert torch.equal(var[t], one.running_var[step])
