"""Normalizers against their formulas, spelled out in float64."""

import copy
import math

import pytest
import torch
from tolerances import assert_close
from torch import nn

from qlstm import ConfigError, QuantLSTM
from qlstm.normalizers import NORMALIZERS, BatchNorm, LayerNorm, WeightNorm, make_normalizer

T, N, d, n = 4, 5, 6, 7
STEPS = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def make(name, features=(4, d), columns=n, max_steps=STEPS):
    """A normalizer in float64, its parameters and statistics random."""
    norm = make_normalizer(name, features, columns, max_steps).double()
    with torch.no_grad():
        for seed, parameter in enumerate(norm.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=10 + seed))
        for seed, (key, buffer) in enumerate(norm.named_buffers()):
            buffer.copy_(randn(*buffer.shape, seed=20 + seed))
            if key.endswith("var"):
                buffer.abs_()
    return norm


def batch_formula(y, gain, shift):
    """Over the samples, axis 0; biased variance."""
    count = len(y)
    mean = sum(y[k] for k in range(count)) / count
    var = sum((y[k] - mean) ** 2 for k in range(count)) / count
    return gain * (y - mean) / (var + 1e-5) ** 0.5 + shift, mean, var


def layer_formula(y, gain, shift):
    """Over the units of each gate of each sample, the last axis."""
    count = y.shape[-1]
    mean = sum(y[..., k] for k in range(count)) / count
    var = sum((y[..., k] - mean) ** 2 for k in range(count)) / count
    return gain * (y - mean[..., None]) / (var[..., None] + 1e-5) ** 0.5 + shift


def weight_formula(w, gain):
    return gain[..., None] * w / ((w * w).sum(-1, keepdim=True) ** 0.5 + 1e-8)


def compare(value, expected, inputs):
    """Values, and the gradients of a random functional with respect to ``inputs``."""
    assert_close(value, expected, "float64")
    cotangent = randn(*value.shape, seed=99)
    ours, theirs = (torch.autograd.grad(y, inputs, cotangent) for y in (value, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, "float64")


# Formulas.


def test_names():
    assert list(NORMALIZERS) == ["none", "weight", "layer", "batch_shared", "batch_separate"]


@pytest.mark.parametrize("features", [(4, d), (d,)])
def test_none_changes_nothing_and_has_no_parameters(features):
    norm = make("none", features)
    y, w = randn(N, *features), randn(*features, n)
    assert torch.equal(norm(y, 0), y)
    assert torch.equal(norm.normalize_weight(w), w)
    assert not norm.state_dict()


def test_weight_formula():
    norm = make("weight")
    w = randn(4, d, n).requires_grad_()
    compare(norm.normalize_weight(w), weight_formula(w, norm.gain), [w, norm.gain])
    y = randn(N, 4, d)
    assert torch.equal(norm(y, 0), y)  # only the matrix is changed


def test_weight_rows_have_norm_g():
    norm = make("weight")
    rows = norm.normalize_weight(randn(4, d, n)).norm(dim=-1)
    assert_close(rows, norm.gain.abs(), "weight_scaling")


@pytest.mark.parametrize("scale", [0.01, 0.3, 100.0])
def test_weight_does_not_depend_on_a_positive_scale(scale):
    norm = make("weight")
    w = randn(4, d, n)
    assert w.norm(dim=-1).min() > 0.1
    assert_close(norm.normalize_weight(scale * w), norm.normalize_weight(w), "weight_scaling")
    rows = torch.rand(4, d, 1, dtype=torch.float64, generator=generator()) + 0.01
    assert_close(norm.normalize_weight(rows * w), norm.normalize_weight(w), "weight_scaling")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_zero_row_is_finite(dtype):
    norm = make("weight").to(dtype)
    w = randn(4, d, n).to(dtype)
    w[1, 2] = 0.0
    w.requires_grad_()
    value = norm.normalize_weight(w)
    assert not value[1, 2].any()
    (value * randn(4, d, n, seed=5).to(dtype)).sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(w.grad).all()
    assert torch.isfinite(norm.gain.grad).all()


@pytest.mark.parametrize("training", [True, False])
def test_layer_formula(training):
    norm = make("layer").train(training)
    y = randn(N, 4, d).requires_grad_()
    for t in (0, 5):
        compare(norm(y, t), layer_formula(y, norm.gain, norm.shift), [y, norm.gain, norm.shift])


def test_layer_normalizes_each_gate_of_each_sample():
    norm = make("layer")
    nn.init.ones_(norm.gain)
    nn.init.zeros_(norm.shift)
    scale = torch.tensor([1.0, 10.0, 0.1, 5.0], dtype=torch.float64)[:, None]
    y = norm(randn(N, 4, d) * scale + scale, 0)
    assert y.mean(-1).abs().max() < 1e-10
    assert (
        y.var(-1, correction=0) - 1
    ).abs().max() < 0.02  # of variance 0.01 and less, eps = 1e-5 takes a part


def test_layer_constant_product_is_finite():
    norm = make("layer")
    y = torch.ones(N, 4, d, dtype=torch.float64, requires_grad=True)
    value = norm(y, 0)
    assert_close(value, norm.shift.expand_as(value), "float64")
    value.sum().backward()
    assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize("features", [(4, d), (d,)])
@pytest.mark.parametrize("name", ["batch_shared", "batch_separate"])
def test_batch_formula_in_training(name, features):
    norm = make(name, features)
    for t in range(STEPS + 2):
        y = randn(N, *features, seed=t).requires_grad_()
        compare(norm(y, t), batch_formula(y, norm.gain, norm.shift)[0], [y, norm.gain, norm.shift])


@pytest.mark.parametrize("features", [(4, d), (d,)])
@pytest.mark.parametrize("name", ["batch_shared", "batch_separate"])
def test_batch_formula_in_evaluation(name, features):
    norm = make(name, features).eval()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    for t in range(STEPS + 2):
        step = 0 if name == "batch_shared" else min(t, STEPS - 1)
        mean, var = norm.running_mean[step], norm.running_var[step]
        y = randn(N, *features, seed=t).requires_grad_()
        expected = norm.gain * (y - mean) / (var + 1e-5) ** 0.5 + norm.shift
        compare(norm(y, t), expected, [y, norm.gain, norm.shift])
        assert_close(
            norm(y[:1], t), expected[:1], "float64"
        )  # a sample does not depend on the others
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


@pytest.mark.parametrize(("momentum", "biased"), [(0.1, False), (0.05, True)])
@pytest.mark.parametrize("name", ["batch_shared", "batch_separate"])
def test_batch_running_statistics(name, momentum, biased):
    """r <- 0.9 r + 0.1 of the batch, the variance unbiased; a step past the last counts as the
    last. SBN, STN: 0.05, biased."""
    norm = make(name)
    norm.momentum, norm.biased = momentum, biased
    n, all_at_once = N if biased else N - 1, copy.deepcopy(norm)
    means, variances = list(norm.running_mean.clone()), list(norm.running_var.clone())
    assert len(means) == (1 if name == "batch_shared" else STEPS)
    for t in (0, 1, 2, 0, 1, 2, 3, 7):
        y = randn(N, 4, d, seed=t) * (t + 1) + t
        norm(y, t)
        _, mean, var = batch_formula(y, 1.0, 0.0)
        step = 0 if name == "batch_shared" else min(t, STEPS - 1)
        means[step] = (1 - momentum) * means[step] + momentum * mean
        variances[step] = (1 - momentum) * variances[step] + momentum * var * N / n
        assert_close(norm.running_mean, torch.stack(means), "float64")
        assert_close(norm.running_var, torch.stack(variances), "float64")
    for steps in ((0, 1, 2), (0, 1, 2, 3)):
        norm = copy.deepcopy(all_at_once)
        found = [batch_formula(randn(N, 4, d, seed=t), 1.0, 0.0)[1:] for t in steps]
        for t in steps:
            norm(randn(N, 4, d, seed=t), t)
        all_at_once.update(
            *(torch.stack(parts).flatten(1) for parts in zip(*found, strict=True)), N)
        assert_close(all_at_once.running_mean, norm.running_mean, "float64")
        assert_close(all_at_once.running_var, norm.running_var, "float64")


def test_batch_training_needs_two_samples():
    with pytest.raises(ValueError, match="more than 1"):
        make("batch_shared")(randn(1, 4, d), 0)


# Shapes and initial values.


@pytest.mark.parametrize(
    ("name", "parameters", "statistics"),
    [("none", 0, 0), ("weight", 1, 0), ("layer", 2, 0), ("batch_shared", 2, 2),
     ("batch_separate", 2, 2 * STEPS)],
)
@pytest.mark.parametrize("features", [(4, d), (d,)])
def test_shapes(name, parameters, statistics, features):
    norm = make_normalizer(name, features, n, STEPS)
    assert all(parameter.shape == features for parameter in norm.parameters())
    assert sum(1 for _ in norm.parameters()) == parameters
    assert sum(buffer.numel() for buffer in norm.buffers()) == statistics * math.prod(features)
    value = norm(torch.randn(N, *features, generator=generator()), 0)
    assert value.shape == (N, *features)
    assert value.dtype == torch.float32


@pytest.fixture
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("columns", [50, 200])
def test_initial_weight_gains_are_row_norms_of_a_fresh_matrix(seeded, columns):
    """Rows of U(-1/sqrt(d), 1/sqrt(d)): squared norm n/(3d) on average, spread over rows
    sqrt(4n/45)/d."""
    units = 200
    squares = make_normalizer("weight", (4, units), columns, None).gain.detach() ** 2
    mean, deviation = columns / (3 * units), math.sqrt(columns * 4 / 45) / units
    assert abs(squares.mean() - mean) < 5 * deviation / math.sqrt(4 * units)
    assert abs(squares.std() / deviation - 1) < 0.15
    assert 0 < squares.min() <= squares.max() < columns / units


def test_initial_layer_gains_and_shifts():
    norm = make_normalizer("layer", (4, d), n, None)
    assert torch.equal(norm.gain, torch.ones(4, d))
    assert torch.equal(norm.shift, torch.zeros(4, d))


@pytest.mark.parametrize("name", ["batch_shared", "batch_separate"])
def test_initial_batch_gains_shifts_and_statistics(seeded, name):
    norm = make_normalizer(name, (4, 500), n, STEPS)
    gain = norm.gain.detach()
    assert 0 <= gain.min() <= gain.max() <= 1
    assert abs(gain.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / 2000)
    assert abs(gain.std() - math.sqrt(1 / 12)) < 0.02
    assert not norm.shift.any()
    assert not norm.running_mean.any()
    assert (norm.running_var == 1).all()


@pytest.mark.parametrize("name", ["weight", "layer", "batch_shared", "batch_separate"])
def test_reset_parameters_starts_over(seeded, name):
    norm = make_normalizer(name, (4, 50), n, STEPS)
    gain = norm.gain.detach().clone()
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            tensor.fill_(77.0)
    norm.reset_parameters()
    assert all((tensor != 77).all() for tensor in norm.state_dict().values())
    assert abs(norm.gain.mean() - gain.mean()) < 0.15


def test_classes_of_the_names():
    assert isinstance(make_normalizer("weight", (4, d), n, None), WeightNorm)
    assert isinstance(make_normalizer("layer", (4, d), n, None), LayerNorm)
    assert isinstance(make_normalizer("batch_shared", (4, d), n, 9), BatchNorm)
    assert isinstance(make_normalizer("batch_separate", (4, d), n, 9), BatchNorm)


# A user's own.


def half(product):
    return product / 2


def fading(product, t):
    return product / (t + 1)


class Stretch(nn.Module):
    """One factor for all, to see copies train apart."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, product):
        return self.factor * product


class StretchByStep(Stretch):
    def forward(self, product, t):
        return self.factor * product * (t + 1)


class StretchWeight(Stretch):
    def forward(self, product):
        return product

    def normalize_weight(self, weight):
        return self.factor * weight


def test_own_function_with_and_without_the_step():
    y = randn(N, 4, d)
    for t in (0, 3):
        assert torch.equal(make_normalizer(half, (4, d), n, None)(y, t), y / 2)
        assert torch.equal(make_normalizer(fading, (4, d), n, None)(y, t), y / (t + 1))
        assert torch.equal(make_normalizer(lambda z: z + 1, (4, d), n, None)(y, t), y + 1)
        assert torch.equal(make_normalizer("torch.nn.functional:tanhshrink", (4, d), n, None)(y, t),
                           y - torch.tanh(y))


class Single(nn.Module):
    """Whose results are in float32, whatever it is given."""

    def forward(self, product):
        return torch.where(product > 0, 1.0, -0.5)

    def normalize_weight(self, weight):
        return weight.float()


def test_own_constants_may_be_in_another_precision():
    lstm = QuantLSTM(3, 4, normalizer=Single()).double()
    assert lstm(randn(5, 2, 3))[0].dtype == torch.float64
    assert lstm.norm_hh_l0(randn(2, 4, 4), 0).dtype == torch.float64


@pytest.mark.parametrize("result", [3.0, torch.zeros(2), None])
def test_own_function_that_returns_something_else_is_refused(result):
    norm = make_normalizer(lambda product: result, (4, 3), 3, None)
    with pytest.raises(ConfigError, match="not the shape of the products"):
        norm(torch.zeros(2, 4, 3), 0)


def test_own_function_of_torch_itself():
    y = randn(N, 4, d)
    assert torch.equal(make_normalizer(torch.tanh, (4, d), n, None)(y, 0), torch.tanh(y))


def plain_twin(lstm, factor_ih, factor_hh):
    """The unnormalized layer whose matrices are multiplied by the factors."""
    twin = QuantLSTM(lstm.input_size, lstm.hidden_size).double()
    with torch.no_grad():
        twin.weight_ih_l0.copy_(factor_ih * lstm.weight_ih_l0)
        twin.weight_hh_l0.copy_(factor_hh * lstm.weight_hh_l0)
        twin.bias_l0.copy_(lstm.bias_l0)
    return twin


def test_own_function_in_the_layer():
    lstm = QuantLSTM(n, d, normalizer=half).double()
    x = randn(T, N, n)
    assert_close(lstm(x)[0], plain_twin(lstm, 0.5, 0.5)(x)[0], "float64")


def test_own_function_sees_each_step_and_shape():
    seen = []

    def spy(product, t):
        seen.append((t, tuple(product.shape)))
        return product

    QuantLSTM(n, d, 2, normalizer=spy)(torch.zeros(T, N, n))
    # two products a step, in each of two layers
    assert sorted(seen) == sorted((t, (N, 4, d)) for t in range(T) for _ in range(4))


@pytest.mark.parametrize("module", [Stretch, StretchByStep, StretchWeight])
def test_own_module_is_copied_for_each_place_and_trains(module):
    original = module()
    lstm = QuantLSTM(n, d, 2, normalizer=original).double()
    factors = {
        name: parameter for name, parameter in lstm.named_parameters() if name.endswith("factor")}
    assert len(factors) == 4  # input and recurrent product, two layers
    assert len({id(parameter) for parameter in factors.values()} | {id(original.factor)}) == 5
    assert all(parameter.item() == 2.0 for parameter in factors.values())
    lstm(randn(T, N, n))[0].pow(2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in factors.values())
    assert original.factor.grad is None


@pytest.mark.parametrize("module", [Stretch, StretchWeight])
def test_own_module_in_the_layer(module):
    lstm = QuantLSTM(n, d, normalizer=module()).double()
    own = {("ih" if "ih" in name else "hh"): p for name, p in lstm.named_parameters()
           if name.endswith("factor")}
    with torch.no_grad():
        own["ih"].fill_(1.5)
        own["hh"].fill_(-0.5)
    x = randn(T, N, n)
    assert_close(lstm(x)[0], plain_twin(lstm, 1.5, -0.5)(x)[0], "float64")


def test_own_module_normalizes_the_quantized_weight():
    lstm = QuantLSTM(n, d, quantizer="binary_connect", normalizer=StretchWeight())
    assert set(lstm.effective_weight("weight_hh_l0").unique().tolist()) == {-2.0, 2.0}


# Errors.


@pytest.mark.parametrize(
    ("name", "meant"),
    [("wieght", "weight"), ("layernorm", "layer"), ("batch_seperate", "batch_separate")])
def test_unknown_name_is_an_error_with_a_suggestion(name, meant):
    for make_it in (lambda: make_normalizer(name, (4, d), n, 3),
                    lambda: QuantLSTM(n, d, normalizer=name)):
        with pytest.raises(
                ConfigError, match=f"unknown normalizer '{name}': did you mean '{meant}'") as error:
            make_it()
        assert all(known in str(error.value) for known in NORMALIZERS)


def test_batch_separate_needs_max_steps():
    for make_it in (lambda: make_normalizer("batch_separate", (4, d), n, None),
                    lambda: QuantLSTM(n, d, normalizer="batch_separate")):
        with pytest.raises(ConfigError, match="max_steps"):
            make_it()


@pytest.mark.parametrize("max_steps", [0, -1, 2.5, "3"])
def test_max_steps_must_be_a_positive_integer(max_steps):
    with pytest.raises(ConfigError, match="max_steps"):
        QuantLSTM(n, d, normalizer="batch_separate", max_steps=max_steps)


@pytest.mark.parametrize("normalizer", [LayerNorm, nn.Tanh, "torch.nn:Tanh"])
def test_class_instead_of_instance(normalizer):
    with pytest.raises(ConfigError, match="not a class"):
        QuantLSTM(n, d, normalizer=normalizer)


@pytest.mark.parametrize("normalizer", [None, 3, "math:pi"])
def test_neither_name_nor_callable(normalizer):
    with pytest.raises(ConfigError, match="normalizer"):
        QuantLSTM(n, d, normalizer=normalizer)


@pytest.mark.parametrize("normalizer", ["no_such_module:f", "math:no_such_function"])
def test_name_that_cannot_be_imported(normalizer):
    with pytest.raises(ConfigError, match="cannot import the normalizer"):
        QuantLSTM(n, d, normalizer=normalizer)


def test_an_option_of_ones_own_function_is_not_taken_for_the_step():
    norm = make_normalizer(lambda product, eps=2.0: product / eps, (4, 3), 5, None)
    assert torch.equal(norm(torch.ones(2, 4, 3), 7), torch.full((2, 4, 3), 0.5))
    norm = make_normalizer(lambda product, t=0: product * t, (4, 3), 5, None)
    assert torch.equal(norm(torch.ones(2, 4, 3), 7), torch.full((2, 4, 3), 7.0))
