"""The triton backend against the naive one: on a GPU where there is one, else in Triton's
interpreter.

``test_triton.py`` runs this file in a process of its own, as the interpreter has to be chosen
before triton is imported.
"""

import os
import statistics

import pytest
import torch
from mixed import PLACES, mix, stretched
from tolerances import TOLERANCES, assert_close
from torch.utils import deterministic

from qlstm import ConfigError, QuantGRU, QuantLSTM, recurrence
from qlstm.normalizers import NORMALIZERS, BatchNorm, Identity
from qlstm.quantizers import QUANTIZERS
from qlstm.recurrence import triton as backend
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence import triton_tuning

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SEED = int(os.environ.get("QLSTM_SEED", "0"))
"""Of weights, inputs and what gradients are taken of."""
on_gpu = pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
QUANTIZED = ["full_precision", "ter_connect", *(["binary_connect", "alternating"] if GPU else [])]
"""One with codes and one without; the interpreter computes the others as these."""
FEWER = not GPU
"""Whether sizes are the smallest that reach every line: the interpreter takes long for each."""
CELLS = [QuantLSTM, QuantGRU]
PAPER = {"characters": (100, 64, 512), "words": (35, 20, 300), "words 650": (35, 20, 650),
         "text8": (180, 128, 2000), "images": (784, 100, 100)}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that is not initialized holds NaN."""
    torch.manual_seed(SEED)
    if not GPU:
        torch.use_deterministic_algorithms(True)
        monkeypatch.setattr(tiling, "PROGRAMS", 8)  # they run one after the other
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    assert GPU or torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["a kernel a step", "product apart"])
def kernels(request, monkeypatch):
    """The ways to cut a step into kernels that so small sizes, or a GPU on which all programs run
    at once, would not choose."""
    monkeypatch.setattr(tiling, "PERSISTENT_UNITS", 0)
    monkeypatch.setattr(tiling, "TOGETHER", False)
    monkeypatch.setattr(
        tiling, "FUSED_GRADIENTS", 1 << 30 if request.param == "a kernel a step" else 0)


def layers(n, d, num_layers=1, training=True, backend="triton", cell=QuantLSTM, **settings):
    """The same random layer thrice: ``backend``, naive, naive in float64; ``training``: of batch
    normalization; ``cell``: QuantLSTM or QuantGRU."""
    made = []
    for name, dtype in ((backend, torch.float32), ("naive", torch.float32),
                        ("naive", torch.float64)):
        lstm = cell(n, d, num_layers, backend=name, **settings)
        if made:
            lstm.load_state_dict(made[0].state_dict())
        else:
            with torch.no_grad():
                for key, tensor in lstm.state_dict().items():
                    if "norm" in key:
                        tensor.uniform_(0.3, 1.3) if key.endswith("var") else tensor.normal_(
                            0.3, 0.3)
        made.append(lstm.to(DEVICE, dtype).eval())  # stochastic quantizers keep one sample
        for module in lstm.modules():
            if isinstance(module, BatchNorm):
                module.train(training)
    for key in (
        "weight_ih",
        "weight_hh",
    ):  # the same codes in float64, where a sample or a threshold might differ
        for k in range(num_layers):
            if made[0].quantizes(f"{key}_l{k}"):
                codes = made[0].quantized(f"{key}_l{k}")
                for lstm in made:
                    fix(lstm, f"{key}_l{k}", codes)
    return made


def fix(lstm, name, codes):
    """Codes and scales as given, with the straight-through gradient to the latent weight."""
    for part, value in codes._asdict().items():
        part = f"frozen_{part}_{name.removeprefix('weight_')}"
        lstm.register_buffer(part, value.to(lstm.weight_hh_l0.dtype))


def everything(lstm, data, seed=7):
    """Outputs, last states, every gradient of a random functional of them, and the running
    statistics, by name."""
    dtype = lstm.weight_hh_l0.dtype
    inputs = [tensor.to(dtype).requires_grad_() for tensor in data[: 1 + lstm.states]]
    output, state = lstm(inputs[0], lstm.as_hx(tuple(inputs[1:])))
    state = lstm.as_parts(state)
    results = dict(zip(["output", "h_n", "c_n"], [output, *state], strict=False))
    generator = torch.Generator().manual_seed(seed)
    total = sum((y * torch.randn(y.shape, generator=generator).to(DEVICE, dtype)).sum()
                for y in list(results.values()))
    variables = dict(zip(["x", "h_0", "c_0"], inputs, strict=False)) | {
        name: parameter for name, parameter in lstm.named_parameters() if parameter.requires_grad}
    for name, gradient in zip(
            variables, torch.autograd.grad(total, list(variables.values())), strict=True):
        results[f"gradient of {name}"] = gradient
    return results | {name: tensor for name, tensor in lstm.named_buffers() if "running" in name}


def random_data(T, N, n, d, num_layers=1):
    generator = torch.Generator().manual_seed(11 + SEED)
    shapes = (T, N, n), (num_layers, N, d), (num_layers, N, d)
    x, h, c = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    return x, h.tanh(), c


def least(cell, T, N, n, d):
    """The sizes; of a GRU, whose kernels are the LSTM's but for the cell, in the interpreter two
    steps and two tiles of units."""
    return (2, 3, 2, 5) if FEWER and cell is QuantGRU else (T, N, n, d)


def relative(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


def assert_as_exact_as_naive(ours, naive, exact, tolerance="kernel_gpu" if GPU else "kernel"):
    """By the errors against float64: about those of plain float32, in the median and nearly so each
    of them."""
    allowed, errors = TOLERANCES[tolerance], []
    for name in exact:
        assert ours[name].dtype == torch.float32, name
        assert ours[name].shape == exact[name].shape, name
        assert exact[name].abs().max() > 0, name
        error, theirs = relative(ours[name], exact[name]), relative(naive[name], exact[name])
        assert error <= allowed["rtol"] * theirs + allowed["atol"], (
            f"{name}: error {error:.1e}, naive {theirs:.1e}")
        errors.append((error, theirs))
    error, theirs = (statistics.median(column) for column in zip(*errors, strict=True))
    assert error <= allowed["rtol"] * theirs + allowed.get("median", 0), (
        f"median error {error:.1e}, naive {theirs:.1e}")


def check(T, N, n, d, num_layers=1, **settings):
    lstms = layers(n, d, num_layers, **settings)
    few = settings.get("backend") == "cudnn" and d <= 128
    assert_as_exact_as_naive(
        *(everything(lstm, random_data(T, N, n, d, num_layers)) for lstm in lstms),
        **{"tolerance": "cudnn_few_units"} if few else {})
    assert lstms[0].backend_used == settings.get("backend", "triton")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("quantizer", QUANTIZED)
@pytest.mark.parametrize("cell", CELLS)
def test_every_combination_equals_naive(cell, quantizer, normalizer):
    """A GRU with codes has both biases."""
    check(*least(cell, 3, 5, 3, 12), cell=cell, quantizer=quantizer, normalizer=normalizer,
          max_steps=2, biases=2 if (cell, quantizer) == (QuantGRU, "ter_connect") else 1)


@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_separate"])
@pytest.mark.parametrize(("cell", "quantizer"), [
    (QuantLSTM, "full_precision"), (QuantLSTM, "ter_connect"), (QuantGRU, "ter_connect")])
@pytest.mark.usefixtures("kernels")
def test_so_do_all_kernels(cell, quantizer, normalizer):
    if FEWER and cell is QuantGRU and tiling.FUSED_GRADIENTS > 0:
        pytest.skip("the interpreter runs these above")
    check(*least(cell, 2 if FEWER else 3, 5, 3, 12), cell=cell, quantizer=quantizer,
          normalizer=normalizer, max_steps=2)


@pytest.mark.parametrize(("normalizer", "fused"), [
    ("layer", False), ("batch_separate", True),
    *([("none", True), ("none", False)] if GPU else [])])
@pytest.mark.parametrize("tiles", [
    tiles for tiles in tiling.CANDIDATES[1:] if GPU or tiles != tiling.Tiles(warps=tiles.warps)])
def test_so_do_all_tiles(tiles, normalizer, fused, monkeypatch):
    """With several tiles of units, and of samples where there are 16 in one."""
    monkeypatch.setattr(tiling, "PERSISTENT_UNITS", 0)
    monkeypatch.setattr(tiling, "FUSED_GRADIENTS", 1 << 30 if fused else 0)
    monkeypatch.setattr(triton_tuning, "chosen", lambda *shape: tiles)
    check(1 if FEWER else 2, 17, 3, 20, quantizer="bwn", normalizer=normalizer, max_steps=3)


@pytest.mark.parametrize("kind", ["none"] if FEWER else triton_tuning.NORMALIZERS)
def test_tuning(kind, monkeypatch, tmp_path):
    """No candidate is left out, and one is stored; without a GPU nothing is timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not GPU:
        monkeypatch.setattr(triton_tuning, "_seconds", lambda step, device: 1.0)
    said, coded = [], kind != "layer"
    T, N, d = (1, 3, 12) if FEWER else (20, 40, 200)
    found = triton_tuning.tune(T, N, d, kind, coded, DEVICE, said.append)
    assert len(said) > 2
    assert [line for line in said if "left out" in line] == []
    assert triton_tuning.chosen(torch.device(DEVICE), N, d, kind, coded) == found
    triton_tuning.chosen.cache_clear()
    triton_tuning._stored.cache_clear()


@pytest.mark.parametrize("quantizer", ["sbn", "stn"])
@pytest.mark.parametrize("training", [True, False])
def test_normalized_cell_state(quantizer, training):
    check(2 if FEWER else 4, 5, 3, 12, quantizer=quantizer, normalizer="batch_separate",
          max_steps=2 if FEWER else 3, training=training)


@pytest.mark.parametrize(("cell", "quantizer", "normalizer"), [
    *((QuantLSTM, quantizer, normalizer) for quantizer in ("full_precision", "ter_connect")
      for normalizer in ("batch_shared", "batch_separate")),
    (QuantGRU, "ter_connect", "batch_separate")])
def test_running_statistics_in_evaluation(cell, quantizer, normalizer):
    check(*least(cell, 2 if FEWER else 4, 5, 3, 12), cell=cell, quantizer=quantizer,
          normalizer=normalizer, max_steps=2 if FEWER else 3, training=False)


SIZES = [(1, 2, 3), (2, 3, 7), (63, 5, 100), (2, 70, 33), (2, 3, 135)]
FEW_SIZES = [(1, 2, 3, "layer"), (2, 3, 7, "none"), (2, 3, 7, "batch_shared"),
             (2, 5, 100, "batch_shared"), (2, 70, 33, "none"), (2, 3, 135, "layer")]
FEW_OF_A_GRU = [(1, 2, 3, "layer"), (2, 33, 5, "none")]


@pytest.mark.parametrize(
    ("cell", "T", "N", "d", "normalizer"),
    [*((QuantLSTM, *size) for size in FEW_SIZES), *((QuantGRU, *size) for size in FEW_OF_A_GRU)]
    if FEWER else [(cell, *size, kind) for cell in CELLS for size in SIZES
                   for kind in ("none", "layer", "batch_shared")])
def test_odd_sizes(cell, T, N, d, normalizer):
    check(T, N, 3, d, cell=cell, quantizer="twn", normalizer=normalizer)  # others explode without


@pytest.mark.parametrize("normalizer", ["none", "layer"])
def test_one_sample_without_batch_statistics(normalizer):
    check(3, 1, 4, 10, quantizer="bwn", normalizer=normalizer)


def test_two_layers_with_a_state_carried_on():
    for normalizer in ["layer"] if FEWER else ["layer", "batch_shared"]:
        ours, _, exact = layers(3, 10, 2, quantizer="binary_connect", normalizer=normalizer)
        x, h, c = random_data(6, 4, 3, 10, 2)
        outputs = []
        for lstm in (ours, exact):
            dtype = lstm.weight_hh_l0.dtype
            first, state = lstm(x[:4].to(dtype), (h.to(dtype), c.to(dtype)))
            second, _ = lstm(x[4:].to(dtype), tuple(s.detach() for s in state))
            outputs.append(torch.cat([first, second]))
        assert relative(*outputs) < 1e-6
        check(2, 4, 3, 10, 2, quantizer="binary_connect", normalizer=normalizer)


@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients(cell):
    T, N, n, d = least(cell, 2 if FEWER else 4, 5, 3, 10)
    one = FEWER and cell is QuantGRU
    for normalizer in ["none"] if one else ["none", "layer", "batch_shared"]:
        ours, _, _ = layers(n, d, cell=cell, quantizer="bwn", normalizer=normalizer)
        x, *state = random_data(T, N, n, d)[: 1 + ours.states]
        with_graph, _ = ours(x, ours.as_hx(tuple(state)))
        with torch.no_grad():
            without, _ = ours(x, ours.as_hx(tuple(state)))
        assert torch.equal(with_graph, without)
        assert with_graph.requires_grad
        assert not without.requires_grad


def test_rows_of_zeros_and_magnitudes_far_apart():
    """The magnitude of a row is applied outside: rows of 0, 1e-20 and 1e4 are exact side by
    side."""
    d = 12
    w = (torch.where(torch.rand(4 * d, d) < 0.5, 1.0, -1.0)
         * torch.tensor([0.0, 1e-20, 1e4, 1.0]).repeat(d)[:, None])
    x = torch.randn(4, 3, 4 * d)
    norms = [QuantLSTM(1, d).norm_hh_l0] * 3
    outputs = []
    for module, dtype in ((backend, torch.float32),
                          (pytest.importorskip("qlstm.recurrence.naive"), torch.float64)):
        arguments = [tensor.to(DEVICE, dtype)
                     for tensor in (x, torch.eye(4 * d), w, torch.zeros(4 * d))]
        state = (torch.full((3, d), 1e-3, device=DEVICE, dtype=dtype),) * 2
        outputs.append(module.recurrence(*arguments, state, norms, coded=True)[0])
    assert relative(*outputs) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_of_the_last_state_alone(cell):
    """Nothing else asks for a gradient, and the first state does not."""
    gradients, (T, N, n, d) = [], least(cell, 4, 5, 3, 10)
    for lstm in layers(n, d, cell=cell, quantizer="bwn", normalizer="layer"):
        x, *state = (tensor.to(lstm.weight_hh_l0.dtype) for tensor in random_data(T, N, n, d))
        _, last = lstm(x, lstm.as_hx(tuple(state[: lstm.states])))
        last = lstm.as_parts(last)[-1]
        gradients.append(torch.autograd.grad(last.sum(), lstm.weight_hh_l0)[0])
    assert relative(gradients[0], gradients[2]) < 1e-6


def test_backward_twice_gives_the_same():
    lstm, _, _ = layers(3, 10, quantizer="bwn", normalizer="batch_shared")
    output, _ = lstm(*[random_data(2 if FEWER else 4, 5, 3, 10)[0]])
    first, second = (torch.autograd.grad(output.sum(), list(lstm.parameters()), retain_graph=True)
                     for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_inputs_and_gradients_that_are_not_contiguous():
    ours, naive, _ = layers(3, 10, quantizer="bwn", normalizer="layer")
    x, h, c = random_data(4, 5, 3, 10)
    stretched = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in (x, h, c)]
    output, expected = ours(stretched[0], tuple(stretched[1:]))[0], naive(x, (h, c))[0]
    assert_close(output, expected, "float32")
    for a, b in zip(
        *(torch.autograd.grad(y.sum(), lstm.bias_l0)
          for y, lstm in [(output, ours), (expected, naive)]),
        strict=True,
    ):
        assert_close(a, b, "float32_gradients")


@pytest.mark.parametrize("normalizer", ["batch_separate"] if FEWER else NORMALIZERS)
def test_a_trained_run_stays_close(normalizer):
    """The weights after steps of Adam; a hundred on a GPU. Latent weights far from thresholds of
    the quantizer."""
    weights = []
    ours, naive, _ = layers(5, 20, quantizer="binary_connect", normalizer=normalizer, max_steps=2)
    for lstm in (ours, naive):
        for buffer in [name for name in lstm._buffers if name.startswith("frozen")]:
            delattr(lstm, buffer)  # quantized anew at each step
        optimizer = torch.optim.Adam(lstm.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(3)
        for _ in range(1 if FEWER else 100):
            x = torch.randn(3, 6, 5, generator=generator).to(DEVICE)
            loss = (lstm(x)[0] - x.sum(-1, keepdim=True).tanh()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append({name: tensor.detach() for name, tensor in lstm.state_dict().items()})
    for name in weights[0]:
        assert_close(weights[0][name], weights[1][name], "trained")


def test_normalizers_in_any_state_are_as_with_naive_or_refused():
    """What normalizes is tried once in each mode."""
    ran, refused = {((Identity, False),) * 3}, set()
    for seed in range(30):
        made = [mix(lstm, seed, odd=0.08)
                for lstm in layers(2, 5, quantizer="bwn", normalizer="none")]
        x, h, c = map(stretched, random_data(2, 3, 2, 5))
        norms = [getattr(made[0], place) for place in PLACES]
        reason = backend.obstacle(x, made[0].weight_hh_l0, norms)
        state = tuple((type(norm), type(norm) is BatchNorm and norm.training) for norm in norms)
        if reason is not None:
            refused.add(reason)
            with pytest.raises(ConfigError, match="cannot run this"):
                made[0](x, (h, c))
        elif state not in ran:
            ran.add(state)
            assert_as_exact_as_naive(*(everything(lstm, (x, h, c)) for lstm in made))
    assert len(ran) > 3
    assert len(refused) > 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("settings", [
    dict(normalizer="none"), dict(normalizer="layer"),
    dict(quantizer="sbn", normalizer="batch_separate", max_steps=2),
    dict(cell=QuantGRU, normalizer="layer")],
    ids=["none", "layer", "evaluation of batch", "GRU"])
def test_nan_stays_and_with_its_sample(settings):
    """And a variance that overflows is NaN: the layer is not to look alive."""
    ours, naive, _ = layers(3, 4, training=False, **settings)
    x, h, c = random_data(2, 3, 3, 4)
    x[0, 0, 1], x[0, 1] = torch.nan, 1e30
    found, expected = (everything(lstm, (x, h, c)) for lstm in (ours, naive))
    for name in expected:
        assert torch.equal(found[name].isnan(), expected[name].isnan()), name
    for name in ("output", "gradient of x"):
        alive = found[name].isfinite().flatten(2).all(2).all(0).tolist()
        assert alive == [False, settings["normalizer"] != "layer", True], name


def test_what_it_cannot_run_says_why(monkeypatch):
    def refused(match, x=None, **settings):
        lstm = QuantLSTM(3, 4, backend="triton", **settings).to(DEVICE)
        with pytest.raises(
                ConfigError, match=f"backend 'triton' cannot run this: .*{match}.*backend='auto'"):
            lstm.to(x.dtype)(x) if x is not None else lstm(torch.zeros(2, 3, 3, device=DEVICE))

    refused("float32, not torch.float64", torch.zeros(2, 3, 3, dtype=torch.float64, device=DEVICE))
    refused("the study's normalizers only", normalizer=lambda product: product)
    lstm = QuantLSTM(3, 4, backend="triton", normalizer="layer").to(DEVICE)
    lstm.norm_hh_l0.eps = 1e-3
    with pytest.raises(ConfigError, match=r"its kernels have eps 1e-05, not 0\.001"):
        lstm(torch.zeros(2, 3, 3, device=DEVICE))
    monkeypatch.setattr(tiling, "MAX_SAMPLES", 2)
    refused("at most 2 samples there, not 3", normalizer="batch_shared")
    with pytest.raises(ValueError, match="at least two samples"):
        QuantLSTM(3, 4, backend="triton", normalizer="batch_shared").to(DEVICE)(
            torch.zeros(2, 1, 3, device=DEVICE))


def test_auto_tries_it_and_takes_it_for_a_gru(monkeypatch):
    monkeypatch.setitem(recurrence._FASTEST_FIRST, DEVICE, ["cudnn", "triton"])  # as on a GPU
    gru = QuantGRU(3, 4, quantizer="bwn", normalizer="layer").to(DEVICE)
    with torch.no_grad():
        gru(torch.zeros(1, 2, 3, device=DEVICE))
    assert gru.backend_used == "triton"


# On a GPU only.


@on_gpu
@pytest.mark.parametrize("quantizer", ["bwn", "full_precision"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize(("cell", "shape"), [
    *((QuantLSTM, shape) for shape in PAPER), (QuantGRU, "characters"), (QuantGRU, "words")])
def test_shapes_of_the_paper(cell, shape, normalizer, quantizer):
    """Not with BinaryConnect, which explodes without normalization."""
    T, N, d = PAPER[shape]
    check(T, N, 16, d, cell=cell, quantizer=quantizer, normalizer=normalizer, max_steps=T)


@on_gpu
@pytest.mark.parametrize("quantizer", ["bwn", "full_precision"])
@pytest.mark.parametrize("normalizer", ["none", "weight"])
@pytest.mark.parametrize("shape", PAPER)
def test_cudnn_at_shapes_of_the_paper(shape, normalizer, quantizer):
    """On the CPU ``test_recurrence.py`` makes the same call."""
    T, N, d = PAPER[shape]
    check(T, N, 16, d, quantizer=quantizer, normalizer=normalizer, backend="cudnn")


@on_gpu
@pytest.mark.parametrize(("cell", "normalizer", "backend"), [
    *((cell, normalizer, "triton") for cell in CELLS for normalizer in NORMALIZERS),
    (QuantLSTM, "none", "cudnn"), (QuantLSTM, "weight", "cudnn")])
@pytest.mark.parametrize("d", [100, 512])
def test_a_step_in_a_graph(cell, normalizer, backend, d):
    """Forward and backward captured and replayed give what they give one by one."""
    lstm = layers(16, d, cell=cell, quantizer="binary_connect", normalizer=normalizer,
                  max_steps=20, backend=backend)[0]
    x, *state = random_data(20, 32, 16, d)[: 1 + lstm.states]

    def step():
        output, _ = lstm(x, lstm.as_hx(tuple(state)))
        return output.detach(), torch.autograd.grad(output.square().sum(), list(lstm.parameters()))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step()
    graph.replay()
    assert torch.equal(captured[0], expected[0])
    for a, b in zip(captured[1], expected[1], strict=True):
        assert_close(a, b, "float32_gradients")


@on_gpu
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_memory(normalizer):
    """Forward and backward take at most 1.5 times the memory of torch.nn.LSTM."""
    T, N, d = PAPER["characters"]
    peaks = []
    for lstm in (
        QuantLSTM(
            d, d, quantizer="binary_connect", normalizer=normalizer, max_steps=T, backend="triton"),
        torch.nn.LSTM(d, d),
    ):
        lstm.to(DEVICE)
        x = torch.randn(T, N, d, device=DEVICE)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            lstm(x)[0].sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] <= 1.5 * peaks[1]


def test_every_quantizer_is_coded_or_dense():
    """Those tested above stand for the others: a row is one magnitude times codes, or anything."""
    coded = {
        name for name in QUANTIZERS if QuantLSTM(3, 4, quantizer=name, **stochastic(name)).coded}
    assert set(QUANTIZERS) - coded == {"full_precision", "alternating"}


def stochastic(name):
    return dict(normalizer="batch_separate", max_steps=3) if name in ("sbn", "stn") else {}
