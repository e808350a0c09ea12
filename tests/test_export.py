"""A network as a C header: it compiles without a warning and computes what Python does."""

import copy
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from qlstm import (
    ConfigError,
    LanguageModel,
    QuantGRU,
    QuantLSTM,
    SequenceClassifier,
    export_c,
    load_packed,
    save_packed,
)
from qlstm.quantizers import QUANTIZERS

CC = shutil.which("cc")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
STEPS = 100
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler cc")
PAIRS = [
    *((quantizer, "none") for quantizer in QUANTIZERS if quantizer not in ("sbn", "stn")),
    *(pair for norm in ("weight", "layer", "batch_shared", "batch_separate")
      for pair in (("binary_connect", norm), ("twn", norm), ("alternating", norm),
                   ("full_precision", norm))),
    ("sbn", "batch_separate"), ("stn", "batch_separate")]


def filled(model):
    """With gains, shifts, statistics and states away from where they start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "weight" not in name and "second_moment" not in name:
                value.uniform_(0.5, 1.5)
                if name.endswith("gain"):
                    value.mul_(0.1)  # or small differences would grow from step to step
                if name.endswith(("shift", "mean", "bias", "state")) or "bias_" in name:
                    value.sub_(1)
            elif "weight_hh" in name:
                value.add_(torch.randn_like(value), alpha=0.01)  # no longer 0 as in the identity
    return model.eval()


def shared(model, folder, name="net"):
    header = export_c(model, folder, name)
    library = folder / f"{name}.so"
    subprocess.run([CC, *STRICT, "-O1", "-shared", "-fPIC", f"-D{name.upper()}_API=", "-x", "c",
                    str(header), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


class Network:
    """The C functions; the state is bytes of the caller's."""

    def __init__(self, model, folder):
        rnn = getattr(model, "rnn", model)
        self.library, self.d = shared(model, folder), rnn.hidden_size
        self.padded = (self.d + 7) // 8 * 8
        self.top = slice((rnn.num_layers - 1) * self.padded, None)
        self.state = np.full(4 * (self.padded + self.d) * rnn.num_layers + 8, 255, np.uint8)
        self.start()

    def start(self):
        self.library.net_start(self.state.ctypes)

    def step(self, x):
        if isinstance(x, int):
            self.library.net_step_symbol(self.state.ctypes, x)
        else:
            self.library.net_step(self.state.ctypes, np.ascontiguousarray(x).ctypes)
        return self.state[:-8].view(np.float32)[self.top][: self.d].copy()


def double(model):
    """In float64, with the same codes."""
    own, rnn = copy.deepcopy(model).double(), getattr(model, "rnn", model)
    names = [f"weight_{side}_l{k}" for k in range(rnn.num_layers) for side in ("ih", "hh")]
    with torch.no_grad():
        getattr(own, "rnn", own).freeze(
            {name: type(q)(q.codes.double(), q.scales.double()) for name in names
             if rnn.quantizes(name) for q in [rnn.quantized(name)]})
    return own


@needs_cc
@pytest.mark.parametrize(("quantizer", "normalizer"), PAIRS)
def test_layers(quantizer, normalizer, tmp_path):
    """Two layers of 33 units on vectors of 5 numbers, then on symbols."""
    torch.manual_seed(0)
    model = filled(QuantLSTM(5, 33, 2, quantizer=quantizer, normalizer=normalizer, max_steps=7,
                             biases=2))
    network = Network(model, tmp_path)
    steps = STEPS if normalizer != "none" else 5  # before differences grow, with weights of +-1
    for inputs in (torch.randn(steps, 5), torch.randint(5, (steps, 1))):
        network.start()
        own = [network.step(int(x) if len(x) == 1 else x.numpy()) for x in inputs]
        x = inputs.double() if inputs.is_floating_point() else inputs
        with torch.no_grad():
            expected = double(model)(x)[0].view(steps, 33).numpy()
        assert np.abs(own - expected).max() < 3e-6


@needs_cc
def test_many_steps(tmp_path):
    torch.manual_seed(0)
    model = filled(QuantLSTM(5, 33, quantizer="binary_connect", normalizer="layer"))
    network, inputs = Network(model, tmp_path), torch.randn(1000, 5)
    own = np.array([network.step(x) for x in inputs.numpy()])
    with torch.no_grad():
        for python, x in ((double(model), inputs.double()), (model, inputs)):
            assert np.abs(own - python(x)[0].numpy()).max() < 1e-6


@needs_cc
@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_separate"])
def test_gru(normalizer, tmp_path):
    torch.manual_seed(0)
    model = filled(QuantGRU(5, 33, 2, quantizer="lat", normalizer=normalizer, max_steps=7))
    network, inputs = Network(model, tmp_path), torch.randn(STEPS, 5)
    own = [network.step(x) for x in inputs.numpy()]
    with torch.no_grad():
        expected = double(model)(inputs.double())[0].numpy()
    assert np.abs(own - expected).max() < 3e-6


@needs_cc
@pytest.mark.parametrize("settings", [
    {}, {"embedding_size": 5}, {"learned_state": True, "cell": "gru"},
    {"learned_state": True, "num_layers": 2, "quantizer": "full_precision"}])
def test_language_model(settings, tmp_path):
    torch.manual_seed(0)
    model = filled(LanguageModel(11, 13, **{"quantizer": "binary_connect", "normalizer": "layer"}
                                 | settings))
    network, symbols = Network(model, tmp_path), torch.randint(11, (STEPS, 1))
    own = np.empty((STEPS, 11), np.float32)
    for symbol, logits in zip(symbols, own, strict=True):
        network.library.net_step(network.state.ctypes, int(symbol), logits.ctypes)
    with torch.no_grad():
        assert np.abs(own - double(model)(symbols)[0][:, 0].numpy()).max() < 1e-5


@needs_cc
@pytest.mark.parametrize("settings", [
    {}, {"state_noise": 0.5, "num_layers": 2},
    {"state_noise": 0.5, "quantizer": "sbn", "normalizer": "batch_separate"}])
def test_classifier(settings, tmp_path):
    torch.manual_seed(0)
    model = filled(SequenceClassifier(3, 9, max_steps=6, **{"quantizer": "bwn"} | settings))
    network, inputs = Network(model, tmp_path), torch.randn(9, 1, 1)
    for x in inputs.numpy():
        network.step(x)
    logits = np.empty(3, np.float32)
    network.library.net_logits(network.state.ctypes, logits.ctypes)
    with torch.no_grad():
        assert np.abs(logits - double(model)(inputs.double())[0].numpy()).max() < 2e-6


@needs_cc
def test_generate(tmp_path):
    """The example runs under the sanitizers, and follows its prompt."""
    torch.manual_seed(0)
    model = LanguageModel(96, 20, quantizer="twn", normalizer="batch_shared")
    export_c(model, tmp_path, "text")
    example = Path(__file__).parents[1] / "docs" / "generate.c"
    subprocess.run([CC, *STRICT, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                    f"-I{tmp_path}", str(example), "-o", str(tmp_path / "generate"), "-lm"],
                   check=True)

    def generate(*arguments):
        return subprocess.run([str(tmp_path / "generate"), *arguments], check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    with torch.no_grad():
        likeliest = model.sample(torch.tensor([ord(c) - 32 for c in "It is"]), 50, temperature=0)
    assert generate("It is", "50", "0", "1") == "It is" + "".join(
        chr(int(j) + 32) for j in likeliest) + "\n"
    one, other = generate("It", "50", "1", "1"), generate("It", "50", "1", "2")
    assert len(one) == len(other) == 53
    assert one != other
    assert one == generate("It", "50", "1", "1")


@needs_cc
def test_cpp(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler c++")
    header = export_c(SequenceClassifier(3, 9, quantizer="sbn", normalizer="batch_separate",
                                         max_steps=2), tmp_path)
    subprocess.run(["c++", "-Wall", "-Wextra", "-Werror", "-include", str(header), "-x", "c++",
                    "-c", "/dev/null", "-o", "/dev/null"], check=True)


def test_header(tmp_path):
    path = export_c(QuantLSTM(5, 3, quantizer="twn"), tmp_path / "new")
    assert path == tmp_path / "new" / "quantlstm.h"
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "malloc" not in text


@pytest.mark.parametrize(("model", "name", "message"), [
    (torch.nn.LSTM(2, 3), None, "LSTM, only QuantLSTM"),
    (QuantLSTM(2, 3, quantizer=torch.sign), None, "a quantizer of your own"),
    (QuantLSTM(2, 3, normalizer=torch.tanh), None, "a normalizer of your own"),
    (QuantLSTM(2, 3).double(), None, "is not: call model.float"),
    (QuantLSTM(2, 3), "two words", "C identifier"),
    (QuantLSTM(2, 3), "2d", "C identifier"),
    (QuantLSTM(2, 3), "math", "which the header includes"),
    (QuantLSTM(2, 3), 7, "C identifier")])
def test_errors(model, name, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_c(model, tmp_path, name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("value", "message"), [
    (float("nan"), "not finite"), (0.0, "codes of 0")])
def test_bad_weights(value, message, tmp_path):
    model = QuantLSTM(2, 3, quantizer="bwn" if value else "binary_connect")
    with torch.no_grad():
        model.weight_hh_l0[0, 0] = value
    with pytest.raises(ConfigError, match=message):
        export_c(model, tmp_path)


@pytest.mark.parametrize(("quantizer", "normalizer"), [
    ("binary_connect", "weight"), ("lat", "layer"), ("alternating", "batch_shared")])
def test_a_packed_model_has_the_same_header(quantizer, normalizer, tmp_path):
    model = filled(LanguageModel(7, 13, quantizer=quantizer, normalizer=normalizer))
    save_packed(model, tmp_path / "packed")
    loaded, _ = load_packed(tmp_path / "packed")
    headers = [export_c(each, tmp_path / "c", "net").read_bytes() for each in (model, loaded)]
    assert headers[0] == headers[1]
