"""What a network refuses, each at once and by the argument's name."""

import math

import pytest
import torch
from torch import nn

from qlstm import ConfigError, LanguageModel, QuantGRU, QuantLSTM, SequenceClassifier
from qlstm.quantizers import QUANTIZERS

ZEROS = torch.zeros(2, 2, 3)
SYMBOLS = torch.zeros(2, 2, dtype=torch.int64)
MADE = {
    "vocabulary_size": [lambda v: LanguageModel(v, 6), 0, "5", None],
    "classes": [lambda v: SequenceClassifier(v, 6), 0, 2.0],
    "hidden_size": [lambda v: LanguageModel(5, v), 0, 2**70],
    "num_layers": [lambda v: SequenceClassifier(5, 6, v), 0, None],
    "embedding_size": [lambda v: LanguageModel(5, 6, embedding_size=v), 0, "a", True],
    "learned_state": [lambda v: LanguageModel(5, 6, learned_state=v), "no", 1],
    "cell": [lambda v: LanguageModel(5, 6, cell=v), "rnn", None, []],
    "dropout": [lambda v: LanguageModel(5, 6, dropout=v), math.nan, "a", None, -0.1, True],
    "initial_gain": [lambda v: SequenceClassifier(5, 6, initial_gain=v), math.nan, -1, None, "a"],
    "state_noise": [lambda v: SequenceClassifier(5, 6, state_noise=v), -1, math.inf, math.nan],
    "quantize_input": [lambda v: QuantLSTM(3, 4, quantize_input=v), 1, "yes"],
    "max_steps": [lambda v: QuantLSTM(3, 4, max_steps=v), -1, 0, 2**70, "a"],
    "backend": [lambda v: QuantLSTM(3, 4, backend=v), None, 5, []],
    "normalizer": [lambda v: QuantGRU(3, 4, normalizer=v), 5, None, []],
    "quantizer": [lambda v: QuantGRU(3, 4, quantizer=v), 5, b"twn", []],
    "bias": [lambda v: QuantLSTM(3, 4, bias=v), 1, None, "yes"],
    "batch_first": [lambda v: QuantGRU(3, 4, batch_first=v), 1, None],
    "bidirectional": [lambda v: QuantGRU(3, 4, bidirectional=v), 2, None],
    "dtype": [lambda v: QuantLSTM(3, 4, dtype=v), torch.float16, torch.int64, "float64", 5],
    "proj_size": [lambda v: QuantLSTM(3, 4, proj_size=v), 2, True, "a"],
    "biases": [lambda v: QuantLSTM(3, 4, biases=v), 0, 3, 2**70],
}


@pytest.mark.parametrize("name", MADE)
def test_settings_that_cannot_be(name):
    make, *values = MADE[name]
    for value in values:
        with pytest.raises(ConfigError, match=name) as refused:
            make(value)
        assert repr(value) in str(refused.value)
        assert "\n" not in str(refused.value)


RUN = {
    "not list": lambda: QuantLSTM(3, 4)([1]),
    "not torch.complex64": lambda: QuantLSTM(3, 4)(ZEROS.to(torch.complex64)),
    "input in torch.float32": lambda: QuantLSTM(3, 4)(ZEROS.double()),
    "state in torch.float32": lambda: QuantLSTM(3, 4)(ZEROS, (torch.zeros(1, 2, 4).double(),) * 2),
    r"state \(h, c\), two tensors, got 5": lambda: QuantLSTM(3, 4)(ZEROS, 5),
    r"state \(h, c\), two tensors, got tensor": lambda: QuantLSTM(3, 4)(
        ZEROS, torch.zeros(1, 2, 4)),
    r"states \(1, 4\)": lambda: QuantLSTM(3, 4)(ZEROS[0], (torch.zeros(()),) * 2),
    r"state h, a tensor, got \(tensor": lambda: QuantGRU(3, 4)(ZEROS, (torch.zeros(1, 2, 4),)),
    "integers from 0 to 2, got 0 to 9": lambda: QuantLSTM(3, 4)(torch.tensor([[9, 0]])),
    "from 0 to 4": lambda: LanguageModel(5, 4, embedding_size=3)(torch.tensor([[9, 0]])),
    "integers": lambda: LanguageModel(5, 4, embedding_size=3)(ZEROS),
    "unknown weight 'weight_xx_l0'": lambda: QuantLSTM(3, 4).weight("xx", 0),
    "unknown weight 'nope'": lambda: QuantLSTM(3, 4).effective_weight("nope"),
    r"inputs \(T, N, 1\), got \(3,\)": lambda: SequenceClassifier(5, 4)(torch.zeros(3)),
    r"inputs \(T, N, 1\), got list": lambda: SequenceClassifier(5, 4)([1]),
    "device 'meta'": lambda: QuantLSTM(3, 4).to("meta")(ZEROS.to("meta")),
    "device 'meta', ": lambda: LanguageModel(5, 4, quantizer="lat").to("meta")(SYMBOLS.to("meta")),
    "meta": lambda: SequenceClassifier(5, 4, state_noise=0.1).to("meta").eval()(
        torch.zeros(2, 2, 1, device="meta")),
}


@pytest.mark.parametrize("message", RUN)
def test_inputs_that_cannot_be(message):
    with pytest.raises((TypeError, ValueError, IndexError), match=message) as refused:
        RUN[message]()
    assert "\n" not in str(refused.value)


SAMPLED = {
    "length": [0, -1, 2.0, None], "temperature": [-1, math.nan, math.inf, "1", None],
    "seed": [-1, 2**70, None],
    "prompt": [torch.tensor([]), SYMBOLS[:0, 0], torch.tensor([1, 5]), torch.tensor([-1]), SYMBOLS,
               torch.tensor(1), torch.tensor([1.0]), [1, 2]],
}


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_that_cannot_be(name):
    model = LanguageModel(5, 4)
    for value in SAMPLED[name]:
        with pytest.raises(ValueError, match=name):
            model.sample(**dict(prompt=torch.tensor([1]), length=2) | {name: value})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_half_precision_is_refused(name, dtype):
    with pytest.raises(ConfigError, match=f"{dtype}, not float32 or float64"):
        QUANTIZERS[name](torch.ones(2, 3, dtype=dtype))
    layer = QuantLSTM(3, 4, quantizer=name, normalizer="batch_separate", max_steps=2)
    for use in (lambda: layer(ZEROS), lambda: layer.quantized("weight_hh_l0")):
        layer.to(dtype)
        with pytest.raises(ConfigError, match=r"torch\.autocast may be around"):
            use()


@pytest.mark.parametrize("own", [lambda w: w, nn.Tanh()], ids=["function", "module"])
def test_half_precision_is_refused_for_ones_own_quantizer(own):
    with pytest.raises(ConfigError, match="float16"):
        QuantLSTM(3, 4, quantizer=own).half()(ZEROS.half())
