"""The propositions on random networks, against a forward and backward pass of its own in numpy;
slips, invariance."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch.nn import functional as F

from qlstm import ConfigError, Quantized, QuantLSTM
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.quantizers import QUANTIZERS, sign
from qlstm.study.theory import jacobians, propositions, slips
from qlstm.study.theory.forward import forward, gradients, in_float64

DOUBLE = torch.float64
NORMALIZERS = ["none", "weight", "layer", "batch_shared", "batch_separate"]
APPLYING = [name for name in QUANTIZERS if name not in ("sbn", "stn")]
CASES = [("lstm", "none", "3.3"),
         *((cell, norm, None) for cell in ("lstm", "gru") for norm in NORMALIZERS)]
NAMES = {"none": "2.1", "weight": "3.1", "layer": "3.2", "batch_shared": "3.4",
         "batch_separate": "3.4"}
PAIRS = [(cell, norm) for cell in ("lstm", "gru") for norm in NORMALIZERS]
cases = pytest.mark.parametrize(("cell", "normalizer", "proposition"), CASES)


def make(cell, normalizer, d=3, layers=1, quantizer="full_precision", seed=0, scale=1.0,
         vocabulary=4, **more):
    """A model, all of whose parameters (gains too: of either sign) and second moments are random,
    in float64."""
    model = LanguageModel(vocabulary, d, layers, cell=cell, normalizer=normalizer,
                          quantizer=quantizer, max_steps=8, **more)
    return randomize(model.double(), seed, scale)


def randomize(model, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in itertools.chain(model.named_parameters(), model.named_buffers()):
            values.copy_(torch.randn(values.shape, generator=generator, dtype=DOUBLE))
            if "weight_" in name or "bias_l" in name:
                values.mul_(scale)
            if "moment" in name or "var" in name:
                values.abs_()
    return model


def batch(model, steps, samples, seed=0, scale=1.0):
    """Inputs, targets, a random state."""
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(model.decoder.out_features, (steps + 1, samples), generator=generator)
    rnn = model.rnn
    shape = (rnn.states, rnn.num_layers, samples, rnn.hidden_size)
    return (symbols[:-1], symbols[1:],
            tuple(scale * torch.randn(shape, generator=generator, dtype=DOUBLE)))


# The bounds hold.


@cases
@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(2, 5), st.integers(1, 2)),
       st.sampled_from([0.1, 1.0, 4.0, 30.0]), st.sampled_from([0.0, 0.5, 3.0]),
       st.sampled_from(APPLYING), st.integers(0, 10**6), st.data())
def test_the_bound_holds(
        cell, normalizer, proposition, sizes, scale, state_scale, quantizer, seed, data):
    d, steps, samples, layers = sizes
    m = data.draw(st.integers(1, steps))
    model = make(cell, normalizer, d, layers, quantizer, seed, scale)
    inputs, targets, state = batch(model, steps, samples, seed, state_scale)
    found = propositions.bounds(model, inputs, targets, m, proposition, state=state)
    assert found.proposition == (proposition or ("GRU" if cell == "gru" else NAMES[normalizer]))
    shape = (m,) if found.proposition in ("3.3", "3.4") or "batch" in normalizer else (m, samples)
    assert {tuple(side.shape) for side in (*found[1:], found.ratio)} == {shape}
    assert found.ratio.max() <= 1 + 1e-9
    along = propositions.bounds(model, inputs, targets, m, proposition, state=state, along_run=True)
    assert torch.equal(along.lhs, found.lhs)
    assert bool((along.rhs >= found.rhs * (1 - 1e-12)).all())


def gates_at(weight, c, steps, h=0.25, **settings_):
    """One unit with these recurrent weights of i, f, a, o and exactly these pre-activations at each
    step; h_0, c_0."""
    model = make("lstm", "none", 1, vocabulary=2, **settings_)
    h = torch.full((1, 1, 1), h, dtype=DOUBLE)
    weight, steps = torch.tensor(weight, dtype=DOUBLE), torch.tensor(steps, dtype=DOUBLE)
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(weight[:, None])
        model.rnn.bias_l0.copy_(-weight * h.item())
        model.rnn.weight_ih_l0.copy_(steps.T.expand(4, 2))
    symbols = torch.arange(len(steps))[:, None]
    return model, symbols, symbols, (h, torch.full((1, 1, 1), c, dtype=DOUBLE))


FAR = 40.0  # sigmoid and tanh are 1 in float64


@pytest.mark.parametrize(
    ("weight", "c", "gates"),
    [
        # i: sig' = 1/4, tanh a~ = 1, and c_t = 1/2 + c_0 = 0, where tanh' = 1
        ((1, 0, 0, 0), -0.5, (0, FAR, FAR, FAR)),
        # f: gamma = 1, sig' = 1/4, c_t = tanh(a~) + 1/2 = 0
        ((0, 1, 0, 0), 1.0, (FAR, 0, math.atanh(-0.5), FAR)),
        ((0, 0, 1, 0), 0.0, (FAR, 0, 0, FAR)),
        # o: sig' = 1/4, tanh c_t = 1
        ((0, 0, 0, 1), FAR, (0, FAR, 0, 0)),
    ],
)
def test_each_constant_of_2_1_is_attained(weight, c, gates):
    """So none can be smaller (the ratio test would fail), and a looser one shows here. Through h_t,
    then c_{t+1}."""
    model, inputs, targets, state = gates_at(weight, c, [gates])
    found = propositions.bounds(model, inputs, targets, state=state)
    assert found.lhs.item() > 0
    assert_close(found.ratio, torch.ones_like(found.ratio), "float64")
    if weight[3] == 0:  # a second step that hands c_1 on, and shuts all gates to h_1
        model, inputs, targets, state = gates_at(
            (*weight[:3], 0), c, [gates, (-2 * FAR, 2 * FAR, 0, 2 * FAR)])
        found = propositions.bounds(model, inputs, targets, state=state)
        assert found.lhs[0].item() > 0
        assert_close(found.ratio[0], torch.ones_like(found.ratio[0]), "float64")


# The same numbers without autograd: forward and backward in numpy, a gate, a sample and a step at a
# time.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Norm:
    """A normalizer of the products (N, d) of one gate: values, the transposed Jacobian, and K by
    the formulas."""

    def __init__(self, kind, matrix, gain, shift):
        self.kind, self.matrix = kind, matrix
        self.gain, self.shift = (
            (np.ones(len(matrix)), np.zeros(len(matrix))) if kind == "none" else (gain, shift))
        if kind == "weight":
            self.matrix = np.stack([row / (np.linalg.norm(row) + 1e-8) for row in matrix])
        self.axis = {"layer": 1, "batch": 0}.get(kind)

    def __call__(self, h):
        y = h @ self.matrix.T
        self.sigma = np.ones(1)
        if self.axis is not None:
            centred = y - y.mean(self.axis, keepdims=True)
            self.sigma = np.sqrt((centred**2).mean(self.axis, keepdims=True) + 1e-5)
            y = centred / self.sigma
        self.z = y
        return self.gain * y + self.shift

    def back(self, u):
        """From the gradient of the normalized products to that of h."""
        u = u * self.gain
        if self.axis is not None:
            along_z = (u * self.z).mean(self.axis, keepdims=True) * self.z
            u = (u - u.mean(self.axis, keepdims=True) - along_z) / self.sigma
        return u @ self.matrix

    def growth(self):
        """K: a number, one a sample (layer)."""
        largest = np.linalg.svd(self.matrix, compute_uv=False)[0]
        if self.kind == "layer":
            return largest * max(abs(self.gain)) / self.sigma[:, 0]
        if self.kind == "batch":
            return largest * max(abs(self.gain) / self.sigma[0])
        return largest * max(abs(self.gain))


def by_hand(model, inputs, targets, state, m, squared):
    """lhs, rhs, lambda_1, lambda_2 for t = 1 .. m of a network of one layer."""
    rnn = model.rnn
    d, gates, steps, samples = rnn.hidden_size, rnn.gates, len(inputs), inputs.shape[1]
    kinds = {"Identity": "none", "WeightNorm": "weight", "LayerNorm": "layer",
             "BatchNorm": "batch"}
    kind = kinds[type(rnn.norm_hh_l0).__name__]
    numbers = {name: value.detach().numpy() for name, value in model.named_parameters()}
    dense = {
        side: rnn.quantized(f"weight_{side}_l0").dense().detach().numpy() for side in ("ih", "hh")}

    def norm(side, gate):
        affine = [numbers.get(f"rnn.norm_{side}_l0.{part}", np.zeros((gates, d)))[gate]
                  for part in ("gain", "shift")]
        return Norm(kind, dense[side][gate], *affine)

    h, *c = (s[0].numpy() for s in state)
    hs, cs, tape = [h], [*c], []
    for t in range(steps):
        one_hot = np.eye(rnn.input_size)[inputs[t].numpy()]
        norms = [norm("hh", gate) for gate in range(gates)]
        products = [norms[gate](h) for gate in range(gates)]
        given = [norm("ih", gate)(one_hot) + numbers["rnn.bias_l0"].reshape(gates, d)[gate]
                 for gate in range(gates)]
        if gates == 4:
            i, f, a, o = (x + p for x, p in zip(given, products, strict=True))
            c = sigmoid(i) * np.tanh(a) + sigmoid(f) * cs[-1]
            h = sigmoid(o) * np.tanh(c)
            cs.append(c)
            tape.append((norms, i, f, a, o))
        else:
            r, z = sigmoid(given[0] + products[0]), sigmoid(given[1] + products[1])
            n = np.tanh(given[2] + r * products[2])
            tape.append((norms, r, z, n, products[2]))
            h = (1 - z) * n + z * h
        hs.append(h)
    logits = hs[m] @ numbers["decoder.weight"].T + numbers["decoder.bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    to_h = (p - np.eye(p.shape[1])[targets[m - 1].numpy()]) / samples @ numbers["decoder.weight"]
    to_c_next = np.zeros_like(to_h)
    rows = []
    for t in range(m, 0, -1):
        norms, *values = tape[t - 1]
        size_h, size_c = np.linalg.norm(to_h, axis=1), np.linalg.norm(to_c_next, axis=1)
        growth = [np.broadcast_to(x.growth(), (samples,)) for x in norms]
        if gates == 4:
            i, f, a, o = values
            to_c = to_h * sigmoid(o) * (1 - np.tanh(cs[t]) ** 2) + to_c_from_next(
                tape, to_c_next, t, m)
            pieces = [to_c * np.tanh(a) * sigmoid(i) * sigmoid(-i),
                      to_c * cs[t - 1] * sigmoid(f) * sigmoid(-f),
                      to_c * sigmoid(i) * (1 - np.tanh(a) ** 2),
                      to_h * np.tanh(cs[t]) * sigmoid(o) * sigmoid(-o)]
            back = sum(x.back(piece) for x, piece in zip(norms, pieces, strict=True))
            gamma = np.abs(cs[t - 1]).max(1)
            if squared:
                gamma = gamma.max()
                ki, kf, ka, ko = (k[0] ** 2 for k in growth)
                lambda_2 = 0.5 * ki + 0.5 * gamma**2 * kf + 8 * ka
                lambda_1 = lambda_2 + 0.25 * ko
            else:
                ki, kf, ka, ko = growth
                lambda_2 = 0.25 * ki + 0.25 * gamma * kf + ka
                lambda_1 = lambda_2 + 0.25 * ko
        else:
            r, z, n, product = values
            to_n = to_h * (1 - z) * (1 - n**2)
            pieces = [to_n * product * r * (1 - r), to_h * (hs[t - 1] - n) * z * (1 - z), to_n * r]
            back = to_h * z + sum(x.back(piece) for x, piece in zip(norms, pieces, strict=True))
            gamma, eta = np.abs(product).max(1), np.abs(hs[t - 1]).max(1)
            kr, kz, kn = growth
            if squared:
                kr, kz, kn, gamma, eta = kr[0], kz[0], kn[0], gamma.max(), eta.max()
                lambda_1 = 4 + gamma**2 * kr**2 / 4 + (1 + eta) ** 2 * kz**2 / 4 + 4 * kn**2
            else:
                lambda_1 = 1 + gamma * kr / 4 + (1 + eta) * kz / 4 + kn
            lambda_2, to_c = 0 * lambda_1, to_c_next
        lhs = np.linalg.norm(back, axis=1)
        if squared:
            lhs, size_h, size_c = ((x**2).sum() for x in (lhs, size_h, size_c))
        rows.append([lhs, lambda_1 * size_h + lambda_2 * size_c, lambda_1, lambda_2])
        to_h, to_c_next = back, to_c
    return [np.stack(column[::-1]) for column in zip(*rows, strict=True)]


def to_c_from_next(tape, to_c_next, t, m):
    """What reaches c_t over c_{t+1}: times sig(f_{t+1}); nothing at t = m."""
    return to_c_next * sigmoid(tape[t][2]) if t < m else 0.0


@cases
@pytest.mark.parametrize("quantizer", ["full_precision", "ter_connect", "alternating"])
def test_both_sides_against_numpy(cell, normalizer, proposition, quantizer):
    for seed, (d, steps, samples, m) in enumerate([(3, 4, 3, 4), (5, 6, 4, 3), (2, 3, 5, 1)]):
        model = make(cell, normalizer, d, 1, quantizer, seed)
        inputs, targets, state = batch(model, steps, samples, seed)
        found = propositions.bounds(model, inputs, targets, m, proposition, state=state)
        expected = by_hand(
            model, inputs, targets, state, m, proposition == "3.3" or "batch" in normalizer)
        for name, actual, value in zip(
                ("lhs", "rhs", "lambda_1", "lambda_2"), found[1:], expected, strict=True):
            if name == "lambda_2" and cell == "gru":
                assert not actual.any()
                continue
            assert value.min() > 0, name
            # relative: gradients are small numbers
            assert_close(actual / torch.from_numpy(value), torch.ones_like(actual), "float64")


@pytest.mark.parametrize(("cell", "normalizer"), PAIRS)
def test_left_sides_of_the_top_layer_against_finite_differences(cell, normalizer):
    model = make(cell, normalizer, 3, 2)
    inputs, targets, state = batch(model, 3, 3)
    found = propositions.bounds(model, inputs, targets, 2, state=state)

    def loss(h):
        state_h = torch.stack([state[0][0], h])
        logits, _ = copy.deepcopy(model)(inputs, (state_h, *state[1:]))
        return F.cross_entropy(logits[1], targets[1]).item()

    gradient = torch.zeros_like(state[0][1])
    for index in itertools.product(*map(range, gradient.shape)):
        step = torch.zeros_like(gradient)
        step[index] = 1e-5
        gradient[index] = (loss(state[0][1] + step) - loss(state[0][1] - step)) / 2e-5
    squares = gradient.square().sum(-1)
    expected = squares.sum() if "batch" in normalizer else squares.sqrt()
    assert_close(found.lhs[0], expected, "finite_differences")


# Networks of other kinds, and what the functions promise.


@pytest.mark.parametrize(("cell", "normalizer"), PAIRS)
def test_a_classifier_has_its_last_step(cell, normalizer):
    model = randomize(
        SequenceClassifier(
            3, 4, cell=cell, normalizer=normalizer, quantizer="twn", max_steps=6, state_noise=0.1),
        1,
    )
    inputs, targets = torch.randn(6, 5, 1), torch.randint(3, (5,))
    found = propositions.bounds(model, inputs, targets)
    assert len(found.lhs) == 6
    assert bool((found.lhs > 0).all())
    assert found.ratio.max() <= 1 + 1e-9
    assert torch.equal(propositions.bounds(model, inputs, targets, 6).lhs, found.lhs)
    with pytest.raises(ConfigError, match="must be 6 to 6"):
        propositions.bounds(model, inputs, targets, 3)


@cases
def test_lambdas_are_those_of_the_bounds(cell, normalizer, proposition):
    model = make(cell, normalizer, 3, 2, "twn")
    inputs, targets, state = batch(model, 4, 3)
    for extra in ({}, {"along_run": True}, {"printed": True}):
        found = propositions.bounds(model, inputs, targets, None, proposition, state=state, **extra)
        for subject in (model, model.rnn):
            lambda_1, lambda_2 = propositions.lambdas(
                subject, inputs, state, proposition=proposition, **extra)
            assert_close(lambda_1, found.lambda_1, "float64")
            assert_close(lambda_2, found.lambda_2, "float64")
            assert not lambda_1.requires_grad
    zero = [torch.zeros_like(s) for s in state]
    assert_close(propositions.lambdas(model, inputs)[0],
                 propositions.lambdas(model, inputs, zero)[0], "float64")


def test_gamma_along_the_run():
    """gamma_1 is a sample's own largest |c_{t-1}|, gamma_2 that of the minibatch."""
    model = make("lstm", "none", 3)
    inputs, _, state = batch(model, 5, 4)
    trace = []
    model(inputs, state, trace=trace)
    c = torch.stack([state[1][0], *(c for _, c in trace[0][:-1])]).detach().abs().amax(-1)  # (T, N)
    k_f = torch.linalg.svdvals(model.rnn.weight_hh_l0.detach().view(4, 3, 3)[1])[0]
    for proposition, gamma, growth in (("2.1", c.amax(0), lambda x: x * k_f / 4),
                                       ("3.3", c.max(), lambda x: x**2 * k_f**2 / 2)):
        run, step = (
            propositions.lambdas(model, inputs, state, proposition=proposition, along_run=along)[0]
            for along in (True, False))
        largest = c.amax(1) if proposition == "3.3" else c
        assert_close(run - step, growth(gamma) - growth(largest), "float64")


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training):
    model = make("lstm", "batch_shared", 3, 2, "lab", dropout=0.5).float().train(training)
    inputs, targets, _ = batch(model, 4, 3)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():  # works there too
        found = propositions.bounds(model, inputs, targets)
        propositions.lambdas(model, inputs)
        propositions.scale_invariance(model, inputs, targets, 0, 2.0)
    assert found.lhs.dtype == DOUBLE
    assert torch.equal(random, torch.get_rng_state())
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def random_signs(weight):
    return sign(torch.rand_like(weight) - 0.5)


class Halves(torch.nn.Module):
    def forward(self, weight):
        return (2 * weight).round() / 2


@pytest.mark.parametrize("quantizer", [random_signs, Halves()])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_quantizer_of_ones_own(quantizer, normalizer):
    """Also one that draws its codes anew at each call: both sides are of the same network."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = make("lstm", normalizer, 6, 1, quantizer, seed)
        assert propositions.bounds(model, *batch(model, 3, 3, seed)[:2]).ratio.max() <= 1 + 1e-9


def once_or_thrice(weight):
    return weight * (1 + 2 * (torch.rand(()) < 0.5))


def test_a_stochastic_quantizer_is_drawn_once():
    """The bound of one unit is attained, whatever was drawn, if both sides have drawn the same."""
    lambdas = []
    for seed in range(10):
        torch.manual_seed(seed)
        case = gates_at((0, 0, 1, 0), 0.0, [(FAR, 0, 0, FAR)], 0.0, quantizer=once_or_thrice)
        found = propositions.bounds(*case[:3], state=case[3])
        assert_close(found.ratio, torch.ones(1, 1, dtype=DOUBLE), "float64")
        lambdas.append(found.lambda_1.item())
    assert set(lambdas) == {1.0, 3.0}


def test_networks_no_proposition_speaks_of():
    for settings_, message in [
        (dict(quantizer="sbn", normalizer="batch_separate", max_steps=4), "normalized cell state"),
        (dict(normalizer=torch.nn.LayerNorm(3)), "normalizer of your own"),
        (dict(normalizer=lambda product: product), "normalizer of your own"),
    ]:
        model = LanguageModel(4, 3, **settings_).double()
        assert not propositions.applies(model.rnn)
        for call in (lambda m: propositions.bounds(m, *batch(m, 4, 3)[:2]),
                     lambda m: propositions.lambdas(m, batch(m, 4, 3)[0])):
            with pytest.raises(ConfigError, match=message) as caught:
                call(model)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "normalizer", "wanted", "possible"),
    [("lstm", "none", "3.4", "2.1 or 3.3"), ("lstm", "layer", "2.1", "3.2"),
     ("gru", "none", "3.3", "GRU"), ("lstm", "weight", "9", "3.1")],
)
def test_a_proposition_of_other_networks(cell, normalizer, wanted, possible):
    model = make(cell, normalizer)
    assert propositions.applies(model.rnn)
    with pytest.raises(
        ConfigError, match=f"'{wanted}' does not speak of this network: possible is {possible}$"
    ):
        propositions.bounds(model, *batch(model, 4, 3)[:2], None, wanted)


@pytest.mark.parametrize("m", [0, -1, 5, 1.5])
def test_steps_that_are_none(m):
    model = make("lstm", "none")
    with pytest.raises(ConfigError, match="1 to 4"):
        propositions.bounds(model, *batch(model, 4, 3)[:2], m)


def test_ratio_where_sides_vanish_or_are_no_numbers():
    sides = torch.tensor([[0.0, 1e-150, 1.0, math.nan], [0.0, 0.0, 2.0, 1.0]], dtype=DOUBLE)
    assert propositions.Bounds("2.1", *sides, *sides).ratio[:3].tolist() == [0, 0, 0.5]
    assert propositions.Bounds("2.1", *sides, *sides).ratio[3].isnan()


# Spectral norms.


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(list(QUANTIZERS)), st.tuples(st.integers(1, 8), st.integers(1, 8)),
       st.floats(1e-3, 1e3), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]))
def test_spectral_lower_bounds(name, shape, scale, seed, zeros):
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn((4, *shape), generator=generator, dtype=DOUBLE)
    weight = torch.where(torch.rand(weight.shape, generator=generator) < zeros, 0, weight)
    quantized = QUANTIZERS[name](weight)
    norms, bounds = (propositions.spectral_norms(quantized.dense()),
                     propositions.spectral_lower_bounds(quantized))
    for gate, dense in enumerate(quantized.dense().numpy()):
        assert abs(norms[gate].item() - np.linalg.svd(dense)[1][0]) <= 1e-12 * norms[gate].item()
        levels, sparsity = np.unique(abs(dense[dense != 0])), (dense == 0).mean()
        smallest = levels[0] if len(levels) else 0.0
        expected = (1 - sparsity) * smallest * math.sqrt(max(shape))
        assert abs(bounds[gate].item() - expected) <= 1e-12 * expected
        assert expected <= norms[gate].item() * (1 + 1e-12)
    if name in ("binary_connect", "bwn", "lab") and not zeros:
        assert_close(bounds, quantized.scales.flatten() * math.sqrt(max(shape)), "formula")


def test_spectral_lower_bounds_that_are_attained():
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
    codes = torch.kron(hadamard, hadamard)[None, None]  # (1, 1, 4, 4)
    for rows in (4, 2):
        quantized = Quantized(codes[:, :, :rows], torch.full((1, 1, 1, 1), 0.3, dtype=DOUBLE))
        expected = torch.tensor([0.6], dtype=DOUBLE)
        assert_close(propositions.spectral_lower_bounds(quantized), expected, "formula")
        assert_close(propositions.spectral_norms(quantized.dense()), expected, "formula")


# Invariance.


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(NORMALIZERS[1:]), st.sampled_from(["lstm", "gru"]),
       st.sampled_from(["full_precision", "binary_connect", "bwn", "lab", "ter_connect", "twn"]),
       st.integers(0, 2), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_normalized_networks_do_not_see_the_scale(normalizer, cell, quantizer, gate, s, seed):
    # no saturated unit, whose variance would be 0: rounding stays rounding
    model = make(cell, normalizer, 8, 1, quantizer, seed, 0.3)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.mul_(0.3)
    changes = propositions.scale_invariance(model, *batch(model, 4, 6, seed)[:2], gate, s)
    assert max(changes) < 1e-8


def test_plain_networks_and_eps_see_the_scale():
    model = make("lstm", "none", 4)
    inputs, targets, state = batch(model, 4, 3)
    assert min(propositions.scale_invariance(model, inputs, targets, 2, 3.0)) > 1e-2
    assert propositions.scale_invariance(model, inputs, targets, 2, 1.0) == (0.0, 0.0)
    table = slips.invariance_table()
    assert (table.loc["none"] > 0.1).all()
    assert (table.drop("none") < 1e-10).all(axis=None)
    # from the layer itself: the scale of the latent weights, eps as it is
    for normalizer, seen in (("layer", True), ("none", True), ("weight", False)):
        model = make("lstm", normalizer, 4)
        outputs = [model(inputs, state)[0]]
        with torch.no_grad():
            model.rnn.weight_hh_l0[8:12] *= 1e-3
        outputs.append(model(inputs, state)[0])
        change = (outputs[1] - outputs[0]).abs().max().item()
        assert (change > 1e-4) is seen
        if normalizer != "none":
            assert max(propositions.scale_invariance(model, inputs, targets, 2, 1e-3)) < 1e-8


# Slips and counterexamples.

EVALUATED = [slip for slip in slips.SLIPS if slip.evaluate is not None]


def test_slips_are_named_once_and_differ():
    assert len({slip.name for slip in slips.SLIPS}) == len(slips.SLIPS)
    assert all(slip.printed != slip.corrected and slip.wrong and slip.where for slip in slips.SLIPS)
    assert [slip.name for slip in slips.SLIPS if not slip.harmless] == ["negative gains"]


def test_slips_as_a_table():
    rows = {slip.name: slip.as_row() for slip in slips.SLIPS}
    assert len({tuple(row) for row in rows.values()}) == 1
    assert rows["smallest eigenvalue"]["with numbers, printed"] == "1 <= 0"
    assert rows["smallest eigenvalue"]["with numbers, corrected"] == "1 <= 1"
    assert rows["a parenthesis"]["with numbers, printed"] == ""


@pytest.mark.parametrize("slip", EVALUATED, ids=[slip.name for slip in EVALUATED])
def test_slips(slip):
    left, printed, corrected = slip.evaluate()
    if slip.relation == "=":
        assert abs(left - corrected) <= 1e-12 * abs(left) < 0.1 * abs(left - printed)
        return
    assert left <= corrected * (1 + 1e-12)
    loosens = slip.name in ("forget gate of 3.4", "output gate of 3.3")
    assert (corrected * 1.01 < printed) if loosens else (left > printed + 0.02)


def test_what_the_printed_constants_of_3_3_and_3_4_add():
    """Exactly the forget gate's term again (3.4), and K_o^2/4 again (3.3): the bounds hold, at most
    twice as loose."""
    for normalizer, proposition in (("none", "3.3"), ("batch_shared", "3.4")):
        model = make("lstm", normalizer, 4)
        with torch.no_grad():
            gain = getattr(model.rnn.norm_hh_l0, "gain", torch.zeros(4, 4)).abs_()
        arguments = (model, *batch(model, 5, 3)[:2], None, proposition)
        printed, corrected = (propositions.bounds(*arguments, printed=True),
                              propositions.bounds(*arguments))
        assert printed.ratio.max() <= corrected.ratio.max() <= 1
        more = printed.lambda_1 - corrected.lambda_1
        assert bool((more < corrected.lambda_1).all())
        if proposition == "3.3":
            k_o = torch.linalg.svdvals(model.rnn.weight_hh_l0.detach()[12:])[0]
            assert_close(more, (k_o**2 / 4).expand_as(more), "float64")
            assert_close(printed.lambda_2, corrected.lambda_2, "float64")
            continue
        assert_close(printed.lambda_2 - corrected.lambda_2, more, "float64")
        with torch.no_grad():  # without the forget gate there is nothing to add
            gain[1] = 0
        assert_close(propositions.bounds(*arguments, printed=True).rhs,
                     propositions.bounds(*arguments).rhs, "float64")


@pytest.mark.parametrize("name", slips.COUNTEREXAMPLES)
def test_outside_their_conditions_the_bounds_fail(name):
    left, right = slips.COUNTEREXAMPLES[name]()
    assert left > 2 * right >= 0


def test_within_its_conditions_each_counterexample_is_none():
    """The same networks: the top layer, the absolute value, the steps up to m, one step's loss."""
    gains = dict(norm_hh_l0__gain=[0.01, -2.0, -2.0])
    for example in (dict(layers=2, weight_hh_l0=0.01), dict(normalizer="layer", **gains), {},
                    dict(weight_hh_l0=0.01)):
        model, inputs, targets = slips.example(**example)
        assert all(
            propositions.bounds(model, inputs, targets, m).ratio.max() <= 1 for m in (1, 2, 3))


def test_examples_are_the_same_every_time():
    random = torch.get_rng_state()
    first, again = (slips.example("weight", norm_hh_l0__gain=0.5)[0].state_dict() for _ in range(2))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["rnn.bias_l0"][:2].tolist() == [math.cos(1), math.cos(2)]
    assert isinstance(slips.example()[0].rnn, QuantLSTM)


# Jacobians of a step.


@pytest.mark.parametrize(
    ("cell", "normalizer", "quantizer"),
    [*((*pair, "full_precision") for pair in PAIRS), ("lstm", "layer", "binary_connect"),
     ("lstm", "batch_separate", "stn")])
def test_step_jacobians_against_finite_differences(cell, normalizer, quantizer):
    """Of the first step and the second, the other samples held; STN normalizes the cell state."""
    model, _ = in_float64(make(cell, normalizer, quantizer=quantizer))  # codes are drawn once
    inputs, _, state = batch(model, 2, 4)
    found = jacobians.step_jacobians(model, inputs, sample=1, state=state)
    for t in range(2):
        columns = []
        for kind, unit in itertools.product(range(model.rnn.states), range(3)):
            moved = []
            for by in (1e-6, -1e-6):
                before = [part.clone() for part in state]
                before[kind][0, 1, unit] += by
                _, after = forward_once(model, inputs[t : t + 1], before)
                moved.append(torch.cat([part[0, 1] for part in after]))
            columns.append((moved[0] - moved[1]) / 2e-6)
        assert_close(found[t], torch.stack(columns, 1), "finite_differences")
        _, state = forward_once(model, inputs[t : t + 1], state)


def forward_once(model, inputs, state):
    """The model itself keeps its running statistics."""
    logits, after = copy.deepcopy(model)(inputs, tuple(state))
    return logits, [part.detach() for part in after]


@pytest.mark.parametrize(("cell", "normalizer"), [
    pair for pair in PAIRS if "batch" not in pair[1]])
def test_the_gradient_is_the_product_of_the_jacobians(cell, normalizer):
    model = make(cell, normalizer, layers=2)
    inputs, targets, state = batch(model, 4, 3)
    exact = gradients(forward(model, inputs, state), targets)[:, :, 2]  # (states, T + 1, d)
    found = torch.zeros(model.rnn.states, 3, dtype=DOUBLE)
    found[0] = exact[0, -1]
    found = found.flatten()
    for jacobian in jacobians.step_jacobians(model, inputs, 2, state).flip(0):
        found = found @ jacobian
    assert_close(found, exact[:, 0].flatten(), "float64")


def test_growth_of_products_that_leave_float64():
    factors = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    products = [factors[2], factors[2] @ factors[1], factors[2] @ factors[1] @ factors[0]]
    expected = torch.stack([torch.linalg.matrix_norm(product, 2) ** (1 / k)
                            for k, product in enumerate(products, 1)])
    for scale in (1.0, 1e200, 1e-200):
        assert_close(jacobians.growth(scale * factors) / scale, expected, "float64")


def test_neither_gradient_grows_faster_than_the_limit():
    for seed, scale in itertools.product(range(3), (0.1, 1.0)):
        model = make("lstm", "none", 4, seed=seed, scale=scale)
        inputs, targets, state = batch(model, 8, 3, seed)
        found = propositions.bounds(model, inputs, targets, state=state, along_run=True)
        forget = max(jacobians.step_jacobians(model, inputs, sample, state)[:, 4:, 4:].max()
                     for sample in range(3))
        lambda_1, lambda_2 = found.lambda_1.max(), found.lambda_2.max()
        step = torch.tensor([[lambda_1, lambda_2], [1, forget]], dtype=DOUBLE)
        assert_close(jacobians.limit(lambda_1, lambda_2, forget),
                     torch.linalg.eigvals(step).abs().max(), "float64")
        norms = gradients(forward(model, inputs, state), targets).norm(dim=-1)  # (2, T + 1, N)
        most = torch.linalg.matrix_power(step, 8)[0, 0] * norms[0, -1]
        assert bool((norms[0, 0] <= most).all())


def test_a_gradient_grows_where_lambda_1_is_below_1():
    model, inputs, targets = jacobians.open_gates()
    found = propositions.bounds(model, inputs, targets)
    assert set(found.lambda_1.flatten().tolist() + found.lambda_2.flatten().tolist()) == {0.5}
    assert found.ratio.max() <= 1
    gate = 1 / (1 + math.exp(-4))  # each step adds what comes from h_t to what stays on c_t
    assert_close(found.lhs[:-1] / found.lhs[1:],
                 torch.full((49, 3), gate + gate**2 / 2, dtype=DOUBLE), "float64")
    half, gate = (torch.tensor(x, dtype=DOUBLE) for x in (0.5, gate))
    assert 1.46 < jacobians.growth(jacobians.step_jacobians(model, inputs))[-1] < jacobians.limit(
        half, half, gate) < 1.49
