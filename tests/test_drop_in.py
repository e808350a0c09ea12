"""QuantLSTM and QuantGRU in the place of torch.nn.LSTM and torch.nn.GRU: each row of the tables of
docs/drop_in.md is a test here, of the row's name."""

import functools
import re
from pathlib import Path

import pytest
import torch
from tolerances import assert_close
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)

from qlstm import ConfigError, LanguageModel, QuantGRU, QuantLSTM, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS

DOCS = Path(__file__).parents[1] / "docs"
TABLE = (DOCS / "drop_in.md").read_text(encoding="utf-8")
ROWS = {}
PAIRS = {nn.LSTM: QuantLSTM, nn.GRU: QuantGRU}
cells = pytest.mark.parametrize("plain", PAIRS, ids=lambda plain: plain.__name__)


def row(name, *, is_same=True):
    """Enter a test for the table's row of a ``name``; whether the row says "same"."""
    def enter(test):
        ROWS[name] = is_same
        return test
    return enter


def parts(hx):
    return hx if isinstance(hx, tuple) else (hx,)


def taken_over(plain, *sizes, **settings):
    """A layer of torch in float64 and ours with its weights."""
    torch.manual_seed(0)
    theirs = plain(*sizes, **settings).double()
    return theirs, PAIRS[plain].from_torch(theirs)


def assert_same(theirs, ours, x, hx=None):
    """Outputs, states and gradients by the inputs."""
    results = []
    for layer in (theirs, ours):
        data = x.data if isinstance(x, PackedSequence) else x
        leaf = data.clone().requires_grad_()
        output, last = layer(x._replace(data=leaf) if isinstance(x, PackedSequence) else leaf, hx)
        flat = [output.data if isinstance(output, PackedSequence) else output, *parts(last)]
        total = sum((value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value))
                    .sum() for value in flat)
        results.append((output, last, [*flat, *torch.autograd.grad(total, leaf)]))
    (output, last, expected), (ours_out, ours_last, found) = results
    assert type(ours_out) is type(output)
    assert type(ours_last) is type(last)
    if isinstance(output, PackedSequence):
        assert all(torch.equal(getattr(ours_out, name), getattr(output, name)) for name in
                   ("batch_sizes", "sorted_indices", "unsorted_indices")
                   if getattr(output, name) is not None)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert_close(a, b, "float64")


def state_of(layer, *samples, seed=1):
    """A random state."""
    generator = torch.Generator().manual_seed(seed)
    count = layer.num_layers * (1 + layer.bidirectional)
    made = tuple(torch.randn(count, *samples, layer.hidden_size, generator=generator,
                             dtype=torch.float64) for _ in range(2))
    return made if layer.mode == "LSTM" else made[0]


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# Arguments.


@cells
@row("input_size, hidden_size, num_layers")
def test_sizes(plain):
    theirs, ours = taken_over(plain, 5, 4, 3)
    assert_same(theirs, ours, inputs(6, 2, 5), state_of(theirs, 2))
    assert PAIRS[plain](5, 4, 3).num_layers == 3  # by position


@cells
@row("bias")
def test_bias(plain):
    theirs, ours = taken_over(plain, 5, 4, 2, bias=False)
    assert_same(theirs, ours, inputs(6, 2, 5))
    assert not any("bias" in name for name, _ in ours.named_parameters())
    assert not ours.bias
    assert PAIRS[plain](5, 4, 1, False).bias is False  # by position
    for quantizer, normalizer in (("twn", "layer"), ("alternating", "weight")):
        layer = PAIRS[plain](5, 4, bias=False, quantizer=quantizer, normalizer=normalizer)
        layer(torch.zeros(3, 2, 5))[0].sum().backward()


@cells
@row("one bias vector", is_same=False)
def test_one_bias_vector(plain):
    ours = PAIRS[plain](5, 4)
    assert [name for name, _ in ours.named_parameters() if "bias" in name] == ["bias_l0"]
    two = PAIRS[plain](5, 4, biases=2)
    assert [len(two.biases(0)), len(two.all_weights[0])] == [2, 4]
    theirs, ours = taken_over(plain, 5, 4, 2)
    assert len(ours.biases(1)) == (1 if plain is nn.LSTM else 2)  # b_hn is in a product of its own
    if plain is nn.GRU:
        with pytest.raises(ConfigError, match="biases=2"):
            QuantGRU.from_torch(theirs, biases=1)
        with torch.no_grad():
            for k in range(2):
                getattr(theirs, f"bias_hh_l{k}")[8:] = 0
    for biases in (1, 2):
        ours = PAIRS[plain].from_torch(theirs, biases=biases)
        assert_same(theirs, ours, inputs(6, 2, 5), state_of(theirs, 2))


@cells
@row("batch_first")
def test_batch_first(plain):
    theirs, ours = taken_over(plain, 5, 4, 2, batch_first=True)
    assert_same(theirs, ours, inputs(3, 6, 5), state_of(theirs, 3))
    assert_same(theirs, ours, inputs(6, 5), state_of(theirs))  # without samples: (T, D) as before
    assert PAIRS[plain](5, 4, 1, True, True).batch_first is True
    symbols = torch.randint(5, (3, 6))
    assert torch.equal(ours(symbols)[0], ours(nn.functional.one_hot(symbols, 5).double())[0])


@cells
@row("dropout")
def test_dropout(plain):
    layer = PAIRS[plain](5, 4, 2, dropout=0.5)
    x = inputs(6, 2, 5).float()
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    for made in (plain, PAIRS[plain]):
        with pytest.warns(UserWarning, match=r"num_layers.*dropout=0\.5"):
            made(5, 4, dropout=0.5)


@cells
@row("bidirectional")
def test_bidirectional(plain):
    theirs, ours = taken_over(plain, 5, 4, 3, bidirectional=True)
    assert_same(theirs, ours, inputs(6, 2, 5), state_of(theirs, 2))
    assert_same(theirs, ours, inputs(6, 5), state_of(theirs))
    shapes = {name: p.shape for name, p in ours.named_parameters() if "weight" in name}
    assert shapes == {
        name: p.shape for name, p in theirs.named_parameters() if "weight" in name}


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("quantizer", ["binary_connect", "alternating", "stn"])
def test_the_reverse_direction_is_a_layer_of_its_own(quantizer, normalizer):
    if quantizer == "stn" and normalizer != "batch_separate":
        pytest.skip("defined with batch_separate only")
    settings = dict(quantizer=quantizer, normalizer=normalizer, max_steps=3)
    both = QuantLSTM(5, 4, bidirectional=True, **settings).double().eval()
    x = inputs(6, 3, 5)
    for reverse in (False, True):
        suffix, half = "_reverse" * reverse, slice(4 * reverse, 4 * reverse + 4)
        one = QuantLSTM(5, 4, **settings).double().eval()
        one.load_state_dict({name: both.state_dict()[re.sub(r"l0", f"l0{suffix}", name)]
                             for name in one.state_dict()})
        if quantizer == "stn":  # each direction takes its own fixed sample
            one.freeze({name: both.quantized(f"{name}{suffix}")
                        for name in ("weight_ih_l0", "weight_hh_l0")})
        output, (h, c) = one(x.flip(0) if reverse else x)
        found, (h_both, c_both) = both(x)
        assert torch.equal(found[..., half], output.flip(0) if reverse else output)
        assert torch.equal(h_both[int(reverse)], h[0])
        assert torch.equal(c_both[int(reverse)], c[0])
    if quantizer == "stn":
        assert not torch.equal(both.quantized("weight_ih_l0").codes.abs(),
                               both.quantized("weight_ih_l0_reverse").codes.abs())


@row("proj_size", is_same=False)
def test_proj_size():
    with pytest.raises(ConfigError, match="proj_size must be 0"):
        QuantLSTM(5, 4, proj_size=2)
    with pytest.raises(ConfigError, match="with proj_size"):
        QuantLSTM.from_torch(nn.LSTM(5, 4, proj_size=2))
    assert QuantLSTM(5, 4).proj_size == QuantLSTM(5, 4, proj_size=0).proj_size == 0
    with pytest.raises(TypeError):
        QuantGRU(5, 4, proj_size=2)


@cells
@row("device")
def test_device(plain):
    layer = PAIRS[plain](5, 4, 2, device="meta", quantizer="lat", normalizer="batch_shared")
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    huge = PAIRS[plain](2**20, 2**20, device="meta")  # takes no memory
    assert huge.weight_hh_l0.numel() >= 3 * 2**40
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer(torch.zeros(3, 2, 5))[0].isfinite().all()


@cells
@row("dtype", is_same=False)
def test_dtype(plain):
    layer = PAIRS[plain](5, 4, dtype=torch.float64, normalizer="layer")
    assert {p.dtype for p in layer.state_dict().values()} == {torch.float64}
    assert layer(inputs(3, 2, 5))[0].dtype == torch.float64
    with pytest.raises(ConfigError, match=r"dtype must be torch\.float32 or torch\.float64"):
        PAIRS[plain](5, 4, dtype=torch.bfloat16)
    torch.set_default_dtype(torch.float64)
    try:
        assert PAIRS[plain](5, 4).weight_hh_l0.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Inputs and outputs.


@cells
@row("input (T, N, D), (T, D)")
def test_padded(plain):
    theirs, ours = taken_over(plain, 5, 4, 2)
    assert_same(theirs, ours, inputs(6, 2, 5))
    assert_same(theirs, ours, inputs(6, 5))
    assert_same(theirs, ours, inputs(1, 1, 5))
    x = inputs(6, 2, 5)
    assert torch.equal(ours(input=x, hx=None)[0], ours(x)[0])  # torch's names


LENGTHS = {"sorted": [6, 4, 4, 1], "in any order": [3, 6, 1, 3], "equal": [4, 4], "one": [5]}


@cells
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("bidirectional", [False, True])
@row("PackedSequence")
def test_packed_sequences(plain, lengths, bidirectional):
    theirs, ours = taken_over(plain, 5, 4, 2, bidirectional=bidirectional, batch_first=True)
    x = inputs(len(lengths), max(lengths), 5)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True,
                                  enforce_sorted=lengths == sorted(lengths, reverse=True))
    assert_same(theirs, ours, packed, state_of(theirs, len(lengths)))
    assert_same(theirs, ours, packed)


@cells
@pytest.mark.parametrize("normalizer", ["none", "weight", "layer"])
@pytest.mark.parametrize("quantizer", ["full_precision", "binary_connect", "lat", "alternating"])
@pytest.mark.parametrize("grad", [True, False])
def test_packed_sequences_are_each_alone(plain, quantizer, normalizer, grad):
    """Quantized and normalized, in float64 with gradients, and from packed matrices without."""
    torch.manual_seed(0)
    dtype = torch.float64 if grad or quantizer == "full_precision" else torch.float32
    layer = PAIRS[plain](5, 9, 2, bidirectional=True, quantizer=quantizer,
                         normalizer=normalizer, dtype=dtype).eval()
    sequences = [inputs(length, 5).to(dtype) for length in (3, 6, 1, 3)]
    tolerance = str(dtype).removeprefix("torch.")
    with torch.set_grad_enabled(grad):
        output, last = layer(pack_sequence(sequences, enforce_sorted=False))
        padded, _ = pad_packed_sequence(output)
        for n, sequence in enumerate(sequences):
            alone, own = layer(sequence)
            assert_close(padded[: len(sequence), n], alone, tolerance)
            for part, expected in zip(parts(last), parts(own), strict=True):
                assert_close(part[:, n], expected, tolerance)


def test_a_packed_sequence_is_quantized_once():
    """Also where each call of a quantizer may give another matrix."""
    calls = []

    def drawn(weight):
        calls.append(weight.shape)
        return weight.new_empty(weight.shape).bernoulli_() - 0.5

    layer = QuantLSTM(5, 4, quantizer=drawn).eval()
    sequences = [inputs(length, 5).float() for length in (6, 3, 1)]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for packed in (False, True):
                calls.clear()
                torch.manual_seed(0)
                if packed:
                    output = pad_packed_sequence(layer(pack_sequence(sequences))[0])[0]
                else:
                    alone, once = layer(sequences[0][:, None])[0][:, 0], len(calls)
            assert len(calls) == once
            assert_close(output[:, 0], alone, "float32")


def test_packed_symbols():
    layer = QuantLSTM(5, 4, bidirectional=True, normalizer="layer")
    symbols = [torch.tensor(text) for text in ([1, 2], [4, 0, 3])]
    vectors = [nn.functional.one_hot(text, 5).float() for text in symbols]
    found, expected = (layer(pack_sequence(some, enforce_sorted=False))
                       for some in (symbols, vectors))
    assert_close(found[0].data, expected[0].data, "float32")


@row("PackedSequence with batch normalization", is_same=False)
def test_packed_sequences_are_not_for_batch_statistics():
    packed = pack_sequence([torch.zeros(3, 5), torch.zeros(2, 5)])
    own = nn.LayerNorm(4)  # which might look at other samples, for all that is known
    for normalizer in ("batch_shared", "batch_separate", own):
        with pytest.raises(ConfigError, match=r"of few samples in late steps.* or of padding"):
            QuantLSTM(5, 4, normalizer=normalizer, max_steps=3)(packed)


@pytest.mark.parametrize("sizes", [[2, 3], [2, 1], [3, 0, 2], [], [-1, 6]])
def test_damaged_packed_sequences_are_refused(sizes):
    packed = PackedSequence(torch.zeros(5, 5), torch.tensor(sizes, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch_sizes"):
        QuantLSTM(5, 4)(packed)
    with pytest.raises(ValueError, match="expected input"):
        QuantLSTM(5, 4)(PackedSequence(torch.zeros(5, 6), torch.tensor([3, 2])))
    with pytest.raises(ValueError, match="at least one time step"):
        QuantLSTM(5, 4)(PackedSequence(torch.zeros(5, 5, 5), torch.tensor([3, 2])))


@row("integers", is_same=False)
def test_integers():
    layer, symbols = QuantLSTM(5, 4), torch.randint(5, (6, 2))
    one_hot = nn.functional.one_hot(symbols, 5).float()
    assert_close(layer(symbols)[0], layer(one_hot)[0], "float32")
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        nn.LSTM(5, 4)(symbols)


@cells
@row("hx")
def test_states(plain):
    theirs, ours = taken_over(plain, 5, 4, 2)
    x, hx = inputs(6, 3, 5), state_of(theirs, 3)
    assert_same(theirs, ours, x, hx)
    first, middle = ours(x[:2], hx)
    second, _ = ours(x[2:], middle)
    assert_close(torch.cat([first, second]), ours(x, hx)[0], "float64")
    assert_same(theirs, ours, inputs(6, 5), state_of(theirs))


@cells
@row("errors", is_same=False)
def test_errors(plain):
    for given in ((inputs(6, 3, 4),), (inputs(6, 3, 5), state_of(plain(5, 4, 3), 3))):
        with pytest.raises((RuntimeError, ValueError)):
            plain(5, 4, 2).double()(*given)
        with pytest.raises(ValueError, match="expected"):
            PAIRS[plain](5, 4, 2).double()(*given)
    with pytest.raises(RuntimeError):
        plain(5, 4)(torch.zeros(0, 2, 5))
    with pytest.raises(ValueError, match="at least one time step"):
        PAIRS[plain](5, 4)(torch.zeros(0, 2, 5))


@cells
@row("autocast", is_same=False)
def test_autocast(plain):
    x = torch.zeros(3, 2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PAIRS[plain](5, 4, quantizer="bwn")(x.bfloat16())[0].dtype == torch.float32


@row("output.relu_()", is_same=False)
def test_operations_in_place():
    for layer in (nn.LSTM(5, 4), QuantLSTM(5, 4, backend="cpu")):
        with pytest.raises((RuntimeError, ConfigError)):
            layer(torch.ones(3, 2, 5))[0].relu_().sum().backward()


@cells
def test_states_of_other_kinds(plain):
    layer, x = PAIRS[plain](5, 4), torch.zeros(3, 2, 5)
    h = torch.zeros(1, 2, 4)
    for other in (h.long(), h.double(), h.to(torch.complex64), h.to("meta")):
        hx = (h, other) if plain is nn.LSTM else other
        for given in (x, pack_sequence([x[:, 0], x[:2, 1]])):
            for grad in (True, False):
                with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="state in"):
                    layer(given, hx)
    for hx in (5, [h, h, h], (h,), {"h": h}, [h, 5]):
        with pytest.raises(TypeError, match=r"expected the state (\(h, c\), two|h, a) tensor"):
            layer(x, hx)


# Attributes and methods.


@cells
@row("attributes")
def test_attributes(plain):
    settings = dict(bias=False, batch_first=True, dropout=0.25, bidirectional=True)
    theirs, ours = plain(5, 4, 2, **settings), PAIRS[plain](5, 4, 2, **settings)
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first",
                 "dropout", "bidirectional", "proj_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for text in ("5, 4", "num_layers=2", "bias=False", "batch_first=True", "dropout=0.25",
                 "bidirectional=True"):
        assert text in repr(ours)
        assert text in repr(theirs)


@cells
@row("weights")
def test_weights(plain):
    theirs, ours = taken_over(plain, 5, 4, 2, bidirectional=True)
    for name, parameter in theirs.named_parameters():
        if "weight" in name:
            assert torch.equal(getattr(ours, name), parameter), name
    bound = 4**-0.5
    assert all(-bound <= p.min() and p.max() <= bound for p in PAIRS[plain](5, 4).parameters())


@cells
@row("all_weights")
def test_all_weights(plain):
    theirs, ours = plain(5, 4, 2, bidirectional=True), PAIRS[plain](5, 4, 2, bidirectional=True,
                                                                    biases=2)
    assert ([[p.shape for p in place] for place in ours.all_weights]
            == [[p.shape for p in place] for place in theirs.all_weights])
    assert [[getattr(ours, name) for name in names] for names in ours._all_weights][3][1] is (
        ours.weight_hh_l1_reverse)
    for place in ours.all_weights:  # as scripts do that choose initial values
        for parameter in place:
            (nn.init.orthogonal_ if parameter.dim() > 1 else nn.init.zeros_)(parameter)
    assert not ours.bias_l1.any()


@cells
@row("flatten_parameters")
def test_flatten_parameters(plain):
    layer = PAIRS[plain](5, 4, quantizer="bwn")
    before = layer(torch.ones(3, 2, 5))[0]
    assert layer.flatten_parameters() is None
    assert torch.equal(layer(torch.ones(3, 2, 5))[0], before)


@cells
@row("reset_parameters")
def test_reset_parameters(plain):
    for made in (plain, PAIRS[plain]):
        layer = made(5, 4)
        before = layer.weight_hh_l0.clone()
        layer.reset_parameters()
        assert not torch.equal(layer.weight_hh_l0, before)


@cells
@row("state_dict, load_state_dict", is_same=False)
def test_state_dicts(plain):
    _, ours = taken_over(plain, 5, 4, 2)
    other = PAIRS[plain](5, 4, 2, biases=ours.settings["biases"]).double()
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(inputs(6, 2, 5))[0], ours(inputs(6, 2, 5))[0])
    with pytest.raises(RuntimeError, match="bias"):
        QuantLSTM(5, 4).load_state_dict(nn.LSTM(5, 4).state_dict())


@cells
@pytest.mark.parametrize("normalizer", ["none", "weight"])
@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if q not in ("sbn", "stn")])
@row("from_torch, to_torch", is_same=False)
def test_to_torch_computes_the_same(plain, quantizer, normalizer):
    settings = dict(bidirectional=True, batch_first=True, quantizer=quantizer,
                    normalizer=normalizer)
    for own in (dict(biases=1), dict(biases=2), dict(bias=False)):
        ours = PAIRS[plain](5, 4, 2, **settings, **own).double().eval()
        theirs = ours.to_torch()
        assert type(theirs) is plain
        assert not theirs.training
        assert_same(theirs, ours, inputs(3, 6, 5), state_of(ours, 3))


@cells
def test_there_and_back(plain):
    for settings in (dict(), dict(bias=False), dict(batch_first=True, dropout=0.5)):
        theirs, ours = taken_over(plain, 5, 4, 2, **settings)
        back = ours.to_torch()
        assert {name: getattr(back, name) for name in settings} == settings
        assert_same(theirs.eval(), back.eval(), inputs(6, 2, 5))
    assert PAIRS[plain].from_torch(theirs, normalizer="weight").norm_hh_l0.gain.dtype == (
        torch.float64)


@cells
def test_what_to_and_from_torch_refuse(plain):
    for normalizer in ("layer", "batch_shared", "batch_separate", nn.LayerNorm(4)):
        with pytest.raises(ConfigError, match="cannot normalize products"):
            PAIRS[plain](5, 4, normalizer=normalizer, max_steps=2).to_torch()
    other = nn.GRU if plain is nn.LSTM else nn.LSTM
    for given in (other(5, 4), PAIRS[plain](5, 4), nn.LSTMCell(5, 4), None):
        with pytest.raises(ConfigError, match=f"takes a torch.nn.{plain.__name__} without"):
            PAIRS[plain].from_torch(given)
    for name in ("bias", "bidirectional", "num_layers", "input_size"):
        with pytest.raises(ConfigError, match=f"{name}="):
            PAIRS[plain].from_torch(plain(5, 4), **{name: not getattr(plain(5, 4), name)})
    assert PAIRS[plain].from_torch(plain(5, 4), num_layers=1).num_layers == 1
    with pytest.raises(ConfigError, match=f"not {other.__name__}$"):
        PAIRS[plain].from_torch(other(5, 4))


# What is around it.


@pytest.mark.parametrize("name", ["batch_first", "bidirectional", "device", "dtype"])
@pytest.mark.parametrize("model", [LanguageModel, SequenceClassifier])
def test_models_refuse_what_they_cannot_have(model, name):
    with pytest.raises(ConfigError, match=name):
        model(5, 4, **{name: True})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_models_without_biases(cell):
    model = LanguageModel(5, 4, cell=cell, bias=False, quantizer="twn", normalizer="layer")
    model(torch.zeros(3, 2, dtype=torch.int64))[0].sum().backward()
    SequenceClassifier(5, 4, cell=cell, bias=False)(torch.zeros(3, 2, 1))


def test_no_stream_and_no_propositions_of_a_bidirectional_layer():
    from qlstm.study.theory.forward import forward

    layer = QuantLSTM(5, 4, bidirectional=True).eval()
    with pytest.raises(ConfigError, match="bidirectional"):
        layer.stream()
    with pytest.raises(ConfigError, match="forwards in time"):
        forward(layer, torch.zeros(3, 2, 5))


@cells
@pytest.mark.parametrize("quantizer", ["full_precision", "binary_connect", "lat"])
def test_a_stream_of_a_batch_first_layer(plain, quantizer):
    layer = PAIRS[plain](5, 4, 2, batch_first=True, bias=False, quantizer=quantizer).eval()
    x = inputs(3, 6, 5).float()
    stream = layer.stream(3)
    with torch.no_grad():
        output, last = layer(x)
    for t in range(6):
        assert_close(stream(x[:, t]), output[:, t], "float32")
    for found, expected in zip(parts(stream.state), parts(last), strict=True):
        assert_close(found, expected, "float32")


def test_a_stream_under_autocast():
    layer, x = QuantLSTM(5, 4, 2, backend="naive").eval(), inputs(6, 3, 5).float()
    with torch.no_grad():
        expected = layer(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            stream = layer.stream(3)
            assert torch.equal(torch.stack([stream(step) for step in x]), expected)


@pytest.mark.parametrize("model", [LanguageModel, SequenceClassifier])
def test_stochastic_networks_with_two_biases_forget_as_with_one(model):
    rnn = model(5, 4, quantizer="sbn", normalizer="batch_separate", max_steps=2, biases=2).rnn
    assert rnn.bias_vector(0).tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_traces_of_two_directions():
    layer, trace = QuantLSTM(5, 4, 2, bidirectional=True), []
    output, _ = layer(torch.zeros(6, 3, 5), trace=trace)
    assert [len(states) for states in trace] == [6] * 4
    assert torch.equal(trace[3][0][0], output[-1, :, 4:])  # backwards: the last step comes first


@pytest.mark.parametrize("quantizer", [None, "binary_connect"])
def test_the_tagger_learns(quantizer, monkeypatch):
    """A script of torch's, in which the layer's name alone is another."""
    monkeypatch.syspath_prepend(str(DOCS))
    import tagger

    layer = nn.LSTM if quantizer is None else functools.partial(
        QuantLSTM, quantizer=quantizer, normalizer="layer")
    assert tagger.train(layer, updates=60) > 0.95


def test_each_row_of_the_tables_is_a_test():
    ours, of_modules = TABLE.split("## What torch does with modules")
    rows = re.findall(r"^\| `?([^|`]+?)`? \| (same|differs|refused)\b", ours, re.M)
    assert dict(rows).keys() == ROWS.keys()
    for name, verdict in rows:
        assert (verdict == "same") == ROWS[name], name
    here = "\n".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("*.py"))
    rows = re.findall(r"^\|.*\| (?:works|refused) \|.*$", of_modules, re.M)
    assert len(rows) > 10
    for row in rows:
        (name,) = re.findall(r"\| `(test_\w+)` \|$", row)
        assert f"def {name}(" in here


@pytest.mark.parametrize("page", ["drop_in.md"])
def test_examples_of_the_page_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": page})
