"""Packed matrices and the loops over time that multiply with them, against the naive recurrence."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tolerances import TOLERANCES

import qlstm
from qlstm import ConfigError, QuantGRU, Quantized, QuantLSTM, load_packed, save_packed
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.recurrence import codes, cpu, extension
from qlstm.recurrence.obstacles import Fault

needs_compiler = pytest.mark.skipif(isinstance(cpu.library(), str), reason=str(cpu.library()))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)
"""The same in every run: of random ones a few in a thousand are networks whose gradients are
rounding alone (layer normalization of one unit), or nearly (batch normalization of two samples)."""
CODED = [name for name in QUANTIZERS if name != "full_precision"]
ROWS = [(q, n) for q in CODED for n in NORMALIZERS
        if n == "batch_separate" or not QUANTIZERS[q].stochastic]
CELLS = [QuantLSTM, QuantGRU]
each_cell = pytest.mark.parametrize("cell", CELLS)
OF_CELLS = [(cell, *row) for cell in CELLS for row in ROWS
            if cell is QuantLSTM or row[0] in ("lab", "ter_connect", "alternating")]
PLAIN = "-march=x86-64" if os.uname().machine == "x86_64" else ""
"""Flags for a processor with no more than the least."""


def quantized(name, gates, d, n):
    weight = torch.randn(gates, d, n)
    weight[weight == 0] = 0.5
    return QUANTIZERS[name](weight)


def packed(name, gates, d, n):
    """A random matrix: packed, and expanded in float64."""
    weight = quantized(name, gates, d, n)
    return codes.pack(*codes.planes(weight)), weight.dense().flatten(0, 1).double()


def network(quantizer, normalizer, D, d, layers=1, cell=QuantLSTM, **more):
    """An LSTM, or a GRU with both bias vectors, whose parameters and statistics are far from their
    initial values."""
    lstm = cell(D, d, layers, quantizer=quantizer, normalizer=normalizer, max_steps=3,
                **{"biases": 2 if cell is QuantGRU else 1} | more)
    with torch.no_grad():
        for name, value in [*lstm.named_parameters(), *lstm.named_buffers()]:
            if "gain" in name or "shift" in name:
                value += 0.3 * torch.randn_like(value)
            elif "running_var" in name:
                value.uniform_(0.5, 2)
            elif "running_mean" in name:
                value.normal_()
            elif "second_moment" in name:
                value.uniform_(0.1, 1)
    return lstm


def relative(found, exact):
    """What should be 0 may be rounding of ones."""
    return ((found.double() - exact).norm() / exact.norm().clamp(min=1)).item()


# Matrices


@needs_compiler
@examples
@given(st.sampled_from(CODED), st.integers(1, 50), st.integers(1, 200), st.integers(1, 70),
       st.integers(0, 2**31))
def test_products_are_those_of_the_expanded_matrix(name, d, n, samples, seed):
    torch.manual_seed(seed)
    matrix, exact = packed(name, 4, d, n)
    for ours, theirs in ((matrix, exact), (matrix.transposed(), exact.T)):
        x = torch.randn(samples, theirs.shape[1])
        # a sum of n terms in float32, of which each is rounded once
        bound = 1e-6 * (x.double().abs() @ theirs.abs().T + 1)
        assert ((ours.products(x).double() - x.double() @ theirs.T).abs() <= bound).all()
    symbols = torch.randint(n, (samples,))
    assert torch.allclose(matrix.products(symbols).double(), exact.T[symbols], 1e-6, 1e-7)
    found = codes.find(exact.float())
    assert torch.allclose(found.dense().double(), exact, 1e-6, 1e-7)
    assert len(found.bits) <= len(matrix.bits)


@needs_compiler
@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 511, 513, 1025])
def test_what_is_packed_comes_back(name, n):
    weight = quantized(name, 4, 3, n)
    signs, scales = codes.planes(weight)
    matrix = codes.pack(signs, scales)
    assert torch.equal(codes.unpack(matrix.bits, matrix.shape), signs)
    assert torch.allclose(matrix.dense(), weight.dense().flatten(0, 1), 1e-6, 1e-7)
    assert torch.allclose(matrix.transposed().dense(), weight.dense().flatten(0, 1).T, 1e-6, 1e-7)
    assert torch.equal(matrix.transposed().transposed().bits, matrix.bits)
    assert matrix.bits.numel() == len(signs) * 16 * -(-n // 32)  # a bit a weight, in full words


@needs_compiler
def test_no_sum_depends_on_threads_or_on_the_other_samples():
    matrix, _ = packed("twn", 4, 37, 130)
    x = torch.randn(9, 130)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results += [matrix.products(x), torch.cat([matrix.products(row) for row in x.split(1)])]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_compiler
@pytest.mark.parametrize("name", ["binary_connect", "ter_connect", "alternating"])
def test_nan_and_infinity_go_through_as_in_a_plain_product(name):
    matrix, exact = packed(name, 4, 5, 70)
    for value in (torch.nan, torch.inf, -torch.inf):
        x = torch.randn(3, 70)
        x[1, 4] = value
        x[2, 4], x[2, 5] = value, value
        ours, theirs = matrix.products(x), x @ exact.float().T
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        if name != "alternating":  # its planes may differ in sign, and the sum of them be NaN
            assert torch.equal(ours.isnan(), theirs.isnan()), value
            assert torch.equal(ours == torch.inf, theirs == torch.inf)


@pytest.mark.parametrize("spoiled", [torch.nan, 2.0, 0.5])
def test_other_codes_have_no_planes(spoiled):
    weight = quantized("bwn", 4, 3, 5)
    weight.codes[0, 1, 2, 3] = spoiled
    assert codes.planes(weight) is None
    assert codes.planes(Quantized(weight.codes.sign(), weight.scales * torch.inf)) is None


@needs_compiler
@pytest.mark.parametrize("spoiled", [torch.nan, torch.inf, 0.3])
def test_only_two_magnitudes_a_row_are_found(spoiled):
    weight = torch.tensor([[1.0, -1.0, 0.5], [2.0, 2.0, 2.0]])
    assert codes.find(weight).dense().tolist() == weight.tolist()
    weight[0, 1] = spoiled
    assert codes.find(weight) is None
    assert codes.find(torch.randn(3, 9)) is None


@needs_compiler
def test_a_few_zeros_cost_their_rows_alone():
    weight = Quantized(torch.ones(1, 4, 16, 9), torch.full((1, 4, 1, 1), 0.5))
    weight.codes[0, 2, 3, 4] = 0
    matrix = codes.pack(*codes.planes(weight))
    assert (matrix.scales[1] != 0).nonzero().tolist() == [[2 * 16 + 3]]
    x = torch.randn(2, 9)
    assert torch.allclose(matrix.products(x), x @ weight.dense().flatten(0, 1).T)


@needs_compiler
def test_inputs_that_cannot_be_are_refused_before_memory_is_read():
    matrix, _ = packed("bwn", 4, 3, 5)
    for x in (torch.zeros(2, 6), torch.zeros(2, 5, dtype=torch.float64)):
        with pytest.raises(ValueError, match="expected 5 inputs in float32"):
            matrix.products(x)
    for symbol in (-1, 5):
        with pytest.raises(IndexError, match=f"integers from 0 to 4, got {symbol}"):
            matrix.products(torch.tensor([symbol]))


# Training


def with_fixed_matrices(lstm):
    """The same network, whose latent matrices are the quantized ones, kept as they are in any
    precision."""
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(lstm, name).copy_(lstm.quantized(name).dense().flatten(0, 1))
    lstm.quantizer = lambda matrix: matrix
    return lstm


def results(lstm, x, state):
    """Outputs, gradients and statistics by name; of ``state`` a GRU takes the first tensor."""
    dtype = lstm.weight_hh_l0.dtype
    x, *state = (part.to(dtype).requires_grad_() for part in (x, *state[: lstm.states]))
    output, last = lstm(x, lstm.as_hx(tuple(state)))
    last = lstm.as_parts(last)
    torch.manual_seed(3)
    loss = sum((value * torch.randn(value.shape).to(dtype)).sum() for value in (output, *last))
    variables = {"x": x, **dict(zip(("h_0", "c_0"), state, strict=False)),
                 **dict(lstm.named_parameters())}
    gradients = torch.autograd.grad(loss, list(variables.values()))
    return {"output": output, "last": last[-1], **dict(zip(variables, gradients, strict=True)),
            **{name: value for name, value in lstm.named_buffers() if "running" in name}}


@needs_compiler
@each_cell
@examples
@given(st.sampled_from(ROWS), st.integers(1, 4), st.integers(2, 70), st.integers(1, 200),
       st.booleans(), st.integers(0, 2**31))
def test_training_with_codes_is_as_exact_as_naive(cell, row, steps, samples, d, training, seed):
    assume(cell is QuantLSTM or not QUANTIZERS[row[0]].stochastic)
    assume(d > 1 or row[1] != "layer")  # of one unit all is 0, and gradients are rounding alone
    torch.manual_seed(seed)
    naive = with_fixed_matrices(network(*row, 3, d, cell=cell, backend="naive")).train(training)
    fast, exact = copy.deepcopy(naive), copy.deepcopy(naive).double()
    fast.backend = "cpu"
    x, state = torch.randn(steps, samples, 3), torch.randn(2, 1, samples, d)
    exact, plain, ours = (results(lstm, x, state) for lstm in (exact, naive, fast))
    assert codes.find(fast.effective_weight("weight_hh_l0"))
    tolerance = TOLERANCES["codes"]
    for name, value in exact.items():
        bound = tolerance["rtol"] * relative(plain[name], value) + tolerance["atol"]
        assert relative(ours[name], value) <= bound, (name, relative(plain[name], value))


@needs_compiler
@each_cell
@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_shared"])
def test_training_with_codes_depends_on_no_threads_and_no_other_samples(cell, normalizer):
    torch.manual_seed(0)
    layer = network("binary_connect", normalizer, 5, 230, cell=cell, backend="cpu").train()
    x = torch.randint(5, (3, 9))  # columns of W_x, as products are not of this backend
    state, weights = torch.randn(layer.states, 1, 9, 230), torch.randn(3, 9, 230)

    def passed(samples):
        start = [part[:, samples].clone().requires_grad_() for part in state]
        output, last = layer(x[:, samples], layer.as_hx(tuple(start)))
        last = layer.as_parts(last)
        loss = (output * weights[:, samples]).sum() + (last[-1] ** 2).sum()
        own = [parameter for name, parameter in layer.named_parameters() if "weight" not in name]
        found = torch.autograd.grad(loss, [*start, *own])
        return [output, *(part.transpose(0, 1) for part in found[: layer.states])], found

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(passed(slice(None)))
    finally:
        torch.set_num_threads(threads)
    for each, sums in results[1:]:
        assert all(map(torch.equal, [*each, *sums], [*results[0][0], *results[0][1]]))
    if normalizer != "batch_shared":
        output, *gradients = results[0][0]
        for k in range(9):
            (alone, *theirs), _ = passed(slice(k, k + 1))
            assert torch.equal(alone, output[:, k : k + 1])
            assert all(map(torch.equal, theirs, (part[k : k + 1] for part in gradients)))


@needs_compiler
@each_cell
@pytest.mark.parametrize("d", [256, 257])
def test_wide_ternary_layers_train_as_narrow_ones(cell, d):
    torch.manual_seed(0)
    naive = network("ter_connect", "layer", 3, d, cell=cell, backend="naive")
    fast = copy.deepcopy(naive)
    fast.backend = "cpu"
    x, state = torch.randn(2, 3, 3), torch.randn(2, 1, 3, d)
    plain, ours = (results(lstm, x, state) for lstm in (naive, fast))
    assert all(relative(ours[name], value.double()) < 1e-5 for name, value in plain.items())


# Evaluation


@needs_compiler
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), OF_CELLS)
def test_evaluation_from_packed_matrices_is_as_exact_as_naive(cell, quantizer, normalizer, layers):
    torch.manual_seed(0)
    lstm = network(quantizer, normalizer, 7, 21, layers, cell).eval()
    exact = copy.deepcopy(lstm).double()
    for k in range(layers):  # the float64 copy has the same codes, not its own
        for name in (f"weight_ih_l{k}", f"weight_hh_l{k}"):
            exact.freeze({name: Quantized(*(part.double() for part in lstm.quantized(name)))})
    naive = copy.deepcopy(lstm)
    naive.backend = "naive"
    state = torch.randn(lstm.states, layers, 5, 21)
    for x in (torch.randn(6, 5, 7), torch.randint(7, (6, 5))):
        found = []
        for each, dtype in ((lstm, x.dtype), (naive, x.dtype), (exact, torch.float64)):
            given_x = x.to(dtype) if x.is_floating_point() else x
            with torch.no_grad():
                output, last = each(given_x, each.as_hx(tuple(state.to(each.bias_l0.dtype))))
            found.append([output, *each.as_parts(last)])
        assert lstm.packed(0, x) is None
        assert lstm.backend_used == "cpu"
        for ours, plain, value in zip(*found, strict=True):
            assert relative(ours, value) <= 3 * relative(plain, value) + 2e-6


@needs_compiler
@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), OF_CELLS)
def test_a_loaded_network_is_the_saved_one_and_stays_packed(
        tmp_path, cell, quantizer, normalizer):
    torch.manual_seed(0)
    lstm = network(quantizer, normalizer, 64, 96, cell=cell).eval()
    save_packed(lstm, tmp_path / "lstm")
    loaded, _ = load_packed(tmp_path / "lstm")
    assert loaded.weight_hh_l0 is None
    x = torch.randn(4, 3, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], lstm(x)[0])
        assert torch.equal(loaded(x[:, :1])[0], lstm(x[:, :1])[0])
    kept = [loaded.weight(side, 0).packed() for side in ("ih", "hh")]
    assert kept[0] is loaded.weight("ih", 0).packed()
    tensors = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
               for tensor in [*loaded.parameters(), *loaded.buffers(),
                              *(part for each in kept for part in each[:2])]}
    rows = sum(4 * each.scales.numel() for each in kept) if normalizer == "weight" else 0
    assert sum(tensors.values()) <= 1.1 * (tmp_path / "lstm").stat().st_size + rows
    save_packed(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "lstm").read_bytes()


@needs_compiler
def test_gradients_of_a_loaded_network_are_those_of_the_expanded_one(tmp_path):
    torch.manual_seed(0)
    lstm = network("ter_connect", "weight", 6, 9)
    save_packed(lstm, tmp_path / "lstm")
    loaded, _ = load_packed(tmp_path / "lstm")
    x = torch.randn(4, 3, 6)
    for each in (lstm.eval(), loaded):
        each(x)[0].square().sum().backward()
    for name, parameter in loaded.named_parameters():
        assert torch.allclose(parameter.grad, lstm.get_parameter(name).grad, 1e-4, 1e-5)


@needs_compiler
def test_evaluation_quantizes_once_and_sees_every_change(monkeypatch):
    counted = []
    original = codes.pack
    monkeypatch.setattr("qlstm.weight.pack", lambda *a: counted.append(1) or original(*a))
    lstm = network("lab", "weight", 5, 8).eval()
    x = torch.randn(3, 2, 5)

    def output():
        with torch.no_grad():
            found = lstm(x)[0]
            monkeypatch.setattr(lstm, "backend", "naive")
            assert torch.allclose(found, lstm(x)[0], atol=1e-5)
            monkeypatch.setattr(lstm, "backend", "auto")
        return found

    first = output()
    assert len(counted) == 2
    assert torch.equal(output(), first)
    assert len(counted) == 2
    with torch.no_grad():
        lstm.weight_hh_l0.neg_()
    changed = output()
    assert len(counted) == 3
    assert not torch.equal(changed, first)
    lstm.set_second_moment({"weight_hh_l0": torch.rand(32, 8)})
    with torch.no_grad():
        lstm.norm_hh_l0.gain.mul_(2)
    doubled = output()
    assert len(counted) == 4
    assert not torch.equal(doubled, changed)
    lstm.weight_ih_l0.data.neg_()  # nobody tells
    assert torch.equal(lstm.eval().weight("ih", 0).packed().dense(),
                       lstm.effective_weight("weight_ih_l0").detach())
    lstm.load_state_dict(network("lab", "weight", 5, 8).state_dict())
    assert not torch.equal(output(), doubled)
    with torch.inference_mode():
        assert torch.equal(lstm(x)[0], lstm(x)[0])
    assert torch.equal(copy.deepcopy(lstm)(x)[0], lstm(x)[0])


@needs_compiler
@each_cell
def test_a_variance_that_overflows_is_computed_by_the_expanded_matrices(cell):
    lstm = network("binary_connect", "layer", 3, 4, cell=cell).eval()
    x = torch.full((2, 2, 3), 1e25)
    with torch.no_grad():
        found = lstm(x)[0]
        stream = lstm.stream(2)
        steps = torch.stack([stream(step) for step in x])
        lstm.backend = "naive"
        expected = lstm(x)[0]
    for each in (found, steps):
        assert torch.allclose(each, expected, equal_nan=True)


@each_cell
@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_shared"])
@pytest.mark.parametrize("quantizer", ["full_precision", "binary_connect", "alternating"])
def test_a_stream_is_one_call_after_the_other(cell, quantizer, normalizer):
    torch.manual_seed(0)
    layers = network(quantizer, normalizer, 6, 10, 2, cell).eval()
    state = layers.as_hx(tuple(torch.randn(2, 3, 10) for _ in range(layers.states)))
    for x in (torch.randn(5, 3, 6), torch.randint(6, (5, 3))):
        stream, known = layers.stream(3, state), state
        assert (stream._steps is None) == (isinstance(cpu.library(), Fault)
                                           or quantizer == "full_precision")
        outputs = [stream(step) for step in x]
        for step, found in zip(x, outputs, strict=True):
            with torch.no_grad():
                output, known = layers(step[None], known)
            assert torch.equal(found, output[0])
        for ours, theirs in zip(*map(layers.as_parts, (stream.state, known)), strict=True):
            assert torch.equal(ours, theirs)
    assert not any(part.any() for part in layers.as_parts(layers.stream(2).state))


def test_a_stream_refuses_what_it_cannot_take():
    lstm = QuantLSTM(6, 10, quantizer="binary_connect")
    with pytest.raises(ConfigError, match="call eval"):
        lstm.stream()
    stream = lstm.eval().stream(2)
    for x in (torch.zeros(3, 6), torch.zeros(2, 5), torch.tensor([1]), torch.zeros(2, 6).double(),
              torch.zeros(2, 0, 6), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 2, 6),
              torch.zeros(2, 6, dtype=torch.int64)):
        with pytest.raises(ValueError, match="expected"):
            stream(x)
    with pytest.raises(ValueError, match=r"expected \(N, 6\)"):
        lstm.stream(6)(torch.zeros(6))
    with pytest.raises(ValueError, match="device 'meta'"):
        stream(torch.zeros(2, 6, device="meta"))
    for x in ([1, 2], torch.zeros(2, 6, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="a tensor"):
            stream(x)
    for samples in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="samples must be a positive integer"):
            lstm.stream(samples)
    with pytest.raises(IndexError, match="from 0 to 5, got 1 to 6"):
        stream(torch.tensor([1, 6]))
    with pytest.raises(ValueError, match="states"):
        lstm.stream(2, (torch.zeros(1, 3, 10),) * 2)


def test_a_stream_keeps_its_weights_and_can_be_copied():
    torch.manual_seed(0)
    lstm = network("twn", "layer", 6, 10, quantize_input=False).eval()
    x = torch.randn(4, 2, 6)
    stream, same = lstm.stream(2), lstm.stream(2)
    expected = [same(step) for step in x[:2]]
    branch = copy.copy(same)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.neg_()
    lstm.double()
    assert all(torch.equal(stream(step), value) for step, value in zip(x, expected, strict=False))
    lstm.float()
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.neg_()
    assert torch.equal(branch(x[2]), same(x[2]))  # of the layers as they are when it is copied


class Threshold(torch.nn.Module):
    """A quantizer that trains."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, weight):
        return Quantized(((weight > self.level) * 2.0 - 1)[None], torch.ones(1, 1, 1))


@pytest.mark.parametrize("change", ["fused", "module", "eps", "norm"])
def test_no_change_that_nobody_counts_is_missed(change):
    torch.manual_seed(0)
    own = Threshold() if change == "module" else "bwn"
    lstm = network(own, "weight", 6, 9).eval()
    x = torch.randn(3, 2, 6)
    optimizer = torch.optim.Adam(lstm.parameters(), 0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            found = lstm(x)[0]
        if change == "fused":
            lstm(x)[0].sum().backward()
            with torch.no_grad():
                lstm(x)
            optimizer.step()
            optimizer.zero_grad()
        elif change == "module":
            with torch.no_grad():
                lstm.quantizer.level.fill_(-0.1)
        elif change == "eps":
            lstm.norm_hh_l0.eps = 1.0
        else:
            lstm.norm_hh_l0 = torch.nn.Identity.__new__(NORMALIZERS["none"])
            lstm.norm_hh_l0.__init__((4, 9), 9)
        with torch.no_grad():
            found = lstm(x)[0]
            lstm.backend = "naive"
            assert torch.allclose(found, lstm(x)[0], atol=1e-5)
            lstm.backend = "auto"


def test_what_has_no_planes_is_expanded():
    weight = torch.randn(4, 9, 9)
    for scales in (weight.abs().mean(1, keepdim=True)[None], weight.abs()[None]):
        assert codes.planes(Quantized(weight.sign()[None], scales)) is None
    lstm = QuantLSTM(9, 9, quantizer=lambda w: Quantized(w.sign()[None, :5], torch.ones(1, 1, 1)))
    with pytest.raises(ConfigError, match=r"for a \(9, 9\) matrix"), torch.no_grad():
        lstm.eval()(torch.zeros(2, 1, 9))


@pytest.mark.parametrize("scales", [
    torch.tensor(0.5).expand(1, 4, 1, 1), torch.tensor(0.5).expand(1, 4, 16, 1),
    torch.rand(1, 4, 1, 2)[..., :1], torch.rand(1, 4, 1, 1).double()])
@pytest.mark.parametrize("kind", [torch.float32, torch.int32])
def test_frozen_codes_may_come_in_any_form(scales, kind):
    torch.manual_seed(0)
    lstm = QuantLSTM(6, 16, quantizer="bwn").eval()
    for largest in (1, 3):  # codes of {-1, 0, +1}, and others
        fixed = Quantized(torch.randint(-largest, largest + 1, (1, 4, 16, 16)).to(kind), scales)
        lstm.freeze({"weight_hh_l0": fixed})
        x = torch.randn(3, 2, 6)
        with torch.no_grad():
            found = lstm(x)[0]
            assert torch.allclose(lstm.effective_weight("weight_hh_l0"),
                                  fixed.dense().flatten(0, 1).float())
            lstm.backend = "naive"
            assert torch.allclose(found, lstm(x)[0], atol=1e-5)
            lstm.backend = "auto"


@needs_compiler
def test_products_refuse_what_they_cannot_fill():
    matrix = codes.find(torch.ones(5, 6))
    x = torch.zeros(2, 6)
    for out in (torch.empty(3, 5), torch.empty(2, 5).double(), torch.empty(5, 2).T):
        with pytest.raises(ValueError, match="cannot multiply"):
            matrix.products(x, out)
    with pytest.raises(ValueError, match="cannot multiply"):
        matrix.transposed().products(torch.tensor([1]))
    assert codes.find(torch.ones(5, 6).double()) is None


@pytest.mark.filterwarnings("ignore")  # dynamo does not like functools.cache
def test_compiled_layers_are_expanded():
    lstm = network("ter_connect", "layer", 6, 9).eval()
    compiled = torch.compile(lstm, backend="eager")
    x = torch.randn(3, 2, 6)
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(compiled(x)[0], lstm(x)[0], atol=1e-5)
            lstm.weight_hh_l0.neg_()


# Machines


def test_without_a_compiler_everything_works_and_says_so(monkeypatch, tmp_path):
    torch.manual_seed(0)
    lstm = network("ter_connect", "weight", 6, 9).eval()
    x = torch.randn(4, 3, 6)
    with torch.no_grad():
        expected = lstm(x)[0]
    save_packed(lstm, tmp_path / "lstm")
    for module in (cpu, codes):
        monkeypatch.setattr(module, "library", lambda: Fault("there is no C++ compiler"))
    loaded, _ = load_packed(tmp_path / "lstm")
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="no C.. compiler; another"):
        found = loaded(x)[0]
    assert loaded.backend_used == "naive"
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.warns(RuntimeWarning, match="another backend takes"):
        steps = list(map(loaded.stream(3), x))
    assert torch.allclose(torch.stack(steps), expected, atol=1e-5)
    save_packed(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "lstm").read_bytes()


SMALL = """
import torch
from itertools import product
from qlstm import QuantGRU, QuantLSTM
from qlstm.recurrence.extension import instructions
for each in product(
        ("binary_connect", "ter_connect", "alternating", "full_precision"),
        ("none", "weight", "layer", "batch_shared"), ((2, 5, 3, 33), (2, 2, 40, 5)),
        (QuantLSTM, QuantGRU)):
    quantizer, normalizer, (T, N, D, d), cell = each
    torch.manual_seed(0)
    layer = cell(D, d, quantizer=quantizer, normalizer=normalizer, biases=2, backend="cpu")
    x = torch.randn(T, N, D)
    layer(x)[0].sum().backward()
    with torch.no_grad():
        layer.eval()(torch.randint(D, (T, N)))
        found = layer(x)[0]
        layer.backend = "naive"
        assert torch.allclose(found, layer(x)[0], atol=1e-5), each
print(instructions())
"""


def in_another_process(**variables):
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True,
                          env=os.environ | variables, cwd=Path(qlstm.__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@needs_compiler
@pytest.mark.skipif(not PLAIN, reason="the flags are of x86-64")
def test_an_older_processor_runs_plain_code(tmp_path):
    assert in_another_process(QLSTM_CXXFLAGS=PLAIN, XDG_CACHE_HOME=str(tmp_path)) == "plain C++"


@needs_compiler
def test_sanitizers_find_no_fault_in_the_extension(tmp_path):
    found = [subprocess.run(["g++", f"-print-file-name=lib{name}.so"], capture_output=True,
                            text=True).stdout.strip() for name in ("asan", "ubsan")]
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip("g++ has no sanitizers here")
    assert in_another_process(
        LD_PRELOAD=" ".join(found), ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1", XDG_CACHE_HOME=str(tmp_path), CXX="g++",
        QLSTM_CXXFLAGS="-O1 -fsanitize=address,undefined -fno-sanitize-recover") in (
            "AVX-512", "AVX2", "plain C++")


def test_flags_are_part_of_what_is_kept(monkeypatch):
    monkeypatch.setenv("QLSTM_CXXFLAGS", "-DONE '-DTWO=a b'")
    assert extension._flags()[-2:] == ["-DONE", "-DTWO=a b"]
