"""What torch does with modules as a whole: export, compile, copy, distribute, parametrize."""

import copy
import io
import pickle
import socket

import pytest
import torch
from onnx_differences import flat, run_onnx, to_onnx, trained
from tolerances import assert_close
from torch import nn
from torch.nn.utils import prune

from qlstm import (
    ConfigError,
    LanguageModel,
    QuantGRU,
    QuantLSTM,
    SequenceClassifier,
    load_packed,
    save_packed,
)
from qlstm.quantizers import QUANTIZERS

CELLS = [QuantLSTM, QuantGRU]
T, N = (torch.export.Dim(name, min=1, max=1000) for name in "TN")
loud = pytest.mark.filterwarnings("ignore")  # torch's own warnings


def networks(*settings, layers=1, normalizer="batch_separate"):
    """An LSTM and a GRU of few units; the same in each call."""
    for cell in CELLS:
        torch.manual_seed(0)
        yield cell(5, 6, layers, quantizer=settings[0] if settings else "twn",
                   normalizer=normalizer, max_steps=4)


def x(steps=4, samples=3):
    return torch.randn(steps, samples, 5, generator=torch.Generator().manual_seed(7))


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# Export.


@loud
@torch.no_grad()
def test_an_exported_program_runs_any_number_of_steps_and_samples():
    rnn = trained(QuantGRU(5, 6, quantizer="twn", normalizer="batch_separate", max_steps=6))
    program = torch.export.export(rnn, (x(),), dynamic_shapes={"input": {0: T, 1: N}})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    program = torch.export.load(file).module()
    for steps, samples in ((9, 5), (1, 1)):  # more steps than have statistics of their own
        same(flat(program(x(steps, samples))), flat(rnn(x(steps, samples))))


@loud
@pytest.mark.parametrize(("quantizer", "normalizer"), [
    (q, "batch_separate") for q in ("full_precision", "lab", "lat", "sbn")])
def test_one_step_is_exported_with_its_state(quantizer, normalizer):
    """Without a loop, so fast enough for these; tests/onnx_differences.py has all of them."""
    lstm = trained(QuantLSTM(5, 6, quantizer=quantizer, normalizer=normalizer, max_steps=1))
    state = (torch.randn(1, 3, 6), torch.randn(1, 3, 6))
    with torch.no_grad():
        program = torch.export.export(lstm, (x(1), state),
                                      dynamic_shapes={"input": {1: N}, "hx": ({1: N}, {1: N})})
        state = (torch.randn(1, 2, 6), torch.randn(1, 2, 6))
        same(flat(program.module()(x(1, 2), state)), flat(lstm(x(1, 2), state)))


@loud
def test_what_is_exported_with_gradients_is_unrolled_and_has_them():
    lstm = trained(QuantLSTM(5, 6, quantizer="bwn", normalizer="layer"))
    program = torch.export.export(lstm, (x(2),)).module()
    gradients = []
    for network in (lstm, program):
        start = x(2).requires_grad_()
        flat(network(start))[0].square().sum().backward()
        gradients.append(start.grad)
    assert gradients[0].any()
    assert_close(*gradients, "float32_gradients")


@loud
def test_noise_on_the_initial_state_is_not_exported():
    model = SequenceClassifier(3, 4, state_noise=0.1).eval()
    with pytest.raises(ConfigError, match="state_noise = 0"), torch.no_grad():
        torch.export.export(model, (torch.zeros(2, 3, 1),))


@pytest.fixture(scope="module")
def runtime():
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")


@loud
@torch.no_grad()
def test_onnx_runtime_computes_what_a_packed_language_model_does(runtime, tmp_path):
    model = LanguageModel(9, 8, quantizer="twn", normalizer="layer", learned_state=True)
    save_packed(model.eval(), tmp_path / "model.qlstm")
    model, _ = load_packed(tmp_path / "model.qlstm")
    model.eval()
    program = to_onnx(model, (torch.randint(9, (4, 3)),), {"symbols": {0: T, 1: N}})
    symbols = torch.randint(9, (20, 5))
    same(run_onnx(program, symbols)[0], flat(model(symbols)))


@loud
@torch.no_grad()
def test_onnx_runtime_takes_steps_with_their_state(runtime):
    """ONNX has no pseudo-inverse, by which this quantizer is defined."""
    lstm = trained(QuantLSTM(5, 6, quantizer="alternating", normalizer="weight"))
    start = tuple(torch.randn(1, 3, 6) for _ in "hc")
    program = to_onnx(lstm, (x(1), start), {"input": {1: N}, "hx": ({1: N}, {1: N})})
    outputs, state = [], [torch.zeros(1, 2, 6)] * 2
    for now in x(3, 2):
        (output, *state), _ = run_onnx(program, now[None], *state)
        outputs.append(output)
    same([torch.cat(outputs), *state], flat(lstm(x(3, 2))))


def test_frozen_by_its_own_codes_it_computes_the_same():
    for rnn in networks("alternating", layers=2):
        with torch.no_grad():
            expected = flat(rnn.eval()(x()))
            rnn.freeze()
            assert rnn.weight_hh_l1 is None
            same(flat(rnn(x())), expected)


# Compile.


@pytest.fixture
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@loud
@torch.no_grad()
def test_compiled_in_one_graph_it_evaluates_the_same(fresh):
    rnn = trained(QuantGRU(5, 6, quantizer="twn", normalizer="batch_separate", max_steps=6))
    same(flat(torch.compile(rnn, backend="aot_eager", fullgraph=True)(x())), flat(rnn(x())))


@loud
@torch.no_grad()
def test_compiled_steps_and_packed_sequences(fresh):
    lstm = trained(QuantLSTM(5, 6, 2, bidirectional=True, quantizer="twn", normalizer="layer"))
    step = torch.compile(lstm, backend="eager", fullgraph=True)
    same(flat(step(x(1))), flat(lstm(x(1))))
    packed = nn.utils.rnn.pack_sequence([x(4)[:, 0], x(2)[:, 1]])
    (output, last), (expected, state) = torch.compile(lstm, backend="eager")(packed), lstm(packed)
    same([output.data, *last], [expected.data, *state])


@loud
def test_compiled_in_pieces_it_trains_the_same(fresh):
    lstm = next(networks("twn", normalizer="batch_separate"))
    other = copy.deepcopy(lstm)
    lstm(x())[0].square().sum().backward()
    torch.compile(other, backend="eager")(x())[0].square().sum().backward()
    for (name, a), b in zip(lstm.named_parameters(), other.parameters(), strict=True):
        assert a.grad.any() or "shift" not in name
        assert_close(b.grad, a.grad, "float32_gradients")
    for a, b in zip(lstm.buffers(), other.buffers(), strict=True):
        assert_close(b, a, "float32")


# Copies, files, parameters.


def test_state_of_an_older_version_is_taken():
    """The names that files have from the first version on."""
    lstm = QuantLSTM(5, 6, quantizer="lab", normalizer="batch_separate", max_steps=4)
    sides = [f"{name}_l0" for name in ("ih", "hh")]
    names = {*(f"weight_{side}" for side in sides), "bias_l0",
             *(f"second_moment_{side}" for side in sides),
             *(f"norm_{side}.{part}" for side in sides
               for part in ("gain", "shift", "running_mean", "running_var"))}
    assert lstm.state_dict().keys() == names
    lstm.load_state_dict({name: torch.zeros_like(value)
                          for name, value in lstm.state_dict().items()})
    assert not lstm.weight_hh_l0.any()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("quantizer", ["twn", "sbn"])
def test_checkpointed_it_has_the_same_gradients(quantizer, reentrant):
    """A stochastic quantizer draws the same codes again, as torch restores its generator."""
    for rnn in networks(quantizer, normalizer="layer" if quantizer == "twn" else "batch_separate"):
        gradients = []
        for run in (rnn, lambda start, rnn=rnn: torch.utils.checkpoint.checkpoint(
                rnn, start, use_reentrant=reentrant)):
            torch.manual_seed(3)
            rnn.zero_grad()
            run(x().requires_grad_())[0].square().sum().backward()
            gradients.append([parameter.grad for parameter in rnn.parameters()])
        for a, b in zip(*gradients, strict=True):
            assert torch.equal(a, b)
        if quantizer == "sbn":
            break  # a GRU has none


def test_replicas_of_data_parallel_compute_the_same():
    for rnn in networks():
        alone = nn.DataParallel(rnn.eval(), dim=1)
        assert torch.equal(alone(x())[0], rnn(x())[0])
        replica = rnn._replicate_for_data_parallel()
        for name, parameter in rnn._parameters.items():
            setattr(replica, name, parameter.detach().clone() if parameter is not None else None)
        assert torch.equal(replica(x())[0], rnn(x())[0])


def test_distributed_it_has_the_same_gradients():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        for rnn in networks():
            other = copy.deepcopy(rnn)
            rnn(x())[0].sum().backward()
            nn.parallel.DistributedDataParallel(other)(x())[0].sum().backward()
            for a, b in zip(rnn.parameters(), other.parameters(), strict=True):
                assert torch.equal(a.grad, b.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("part", ["weight", "bias", "gain"])
def test_parameters_may_be_fixed(part):
    for rnn in networks():
        fixed = [parameter.requires_grad_(False) for name, parameter in rnn.named_parameters()
                 if part in name]
        assert fixed
        rnn(x())[0].square().sum().backward()
        for parameter in rnn.parameters():
            assert (parameter.grad is None) == any(parameter is other for other in fixed)


def test_gradients_are_clipped_and_parameters_become_a_vector():
    for rnn in networks():
        rnn(x())[0].square().sum().backward()
        nn.utils.clip_grad_norm_(rnn.parameters(), 1e-3)
        assert nn.utils.get_total_norm([p.grad for p in rnn.parameters()]) <= 1.001e-3
        vector = nn.utils.parameters_to_vector(rnn.parameters())
        other = copy.deepcopy(rnn.eval())
        nn.utils.vector_to_parameters(torch.zeros_like(vector), other.parameters())
        assert not other(x())[0].any()
        nn.utils.vector_to_parameters(vector, other.parameters())
        assert torch.equal(other(x())[0], rnn(x())[0])


def test_inference_mode_and_no_grad_agree():
    for rnn in networks("twn", layers=2):
        with torch.no_grad():
            expected = rnn.eval()(x())[0]
        with torch.inference_mode():
            assert torch.equal(rnn(x())[0], expected)


@pytest.mark.parametrize("quantizer", ["twn", "full_precision"])
def test_pruned_weights_are_quantized_as_zeros(quantizer):
    for rnn in networks(quantizer, normalizer="none"):
        prune.l1_unstructured(rnn, "weight_hh_l0", 0.5)
        pruned = rnn.effective_weight("weight_hh_l0")
        assert not pruned[rnn.weight_hh_l0_mask == 0].any()
        rnn(x())[0].square().sum().backward()
        assert rnn.weight_hh_l0_orig.grad.any()
        prune.remove(rnn, "weight_hh_l0")
        assert torch.equal(rnn.effective_weight("weight_hh_l0"), pruned)
        assert torch.equal(copy.deepcopy(rnn).eval()(x())[0], rnn.eval()(x())[0])


def test_a_layer_without_its_initial_values():
    empty = nn.utils.skip_init(QuantGRU, 5, 6, quantizer="lab")
    empty.reset_parameters()
    assert empty(x())[0].isfinite().all()


def test_shared_memory_and_pickles_keep_the_numbers():
    for rnn in networks():
        expected = rnn.eval()(x())[0]
        rnn.share_memory()
        assert rnn.weight_hh_l0.is_shared()
        assert torch.equal(pickle.loads(pickle.dumps(rnn))(x())[0], expected)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    for rnn in networks():
        with pytest.raises(ConfigError, match=r"not float32 or float64"):
            rnn.to(dtype)(x().to(dtype))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    for rnn in networks():
        with pytest.raises(Exception, match=r"torch\.export"):
            torch.jit.trace(rnn, x())
        with pytest.raises(Exception):  # noqa: B017, PT011
            torch.jit.script(rnn)


@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if q not in ("sbn", "stn")])
def test_functional_calls_in_a_batch_of_networks(quantizer):
    """An ensemble, as torch.func.stack_module_state makes one."""
    for cell in CELLS:
        ensemble = [cell(5, 6, quantizer=quantizer).eval() for _ in range(2)]
        values, start = torch.func.stack_module_state(ensemble), x()
        found = torch.func.vmap(lambda *own, rnn=ensemble[0], start=start:
                                torch.func.functional_call(rnn, own, (start,))[0])(*values)
        for one, rnn in zip(found, ensemble, strict=True):
            assert_close(one, rnn(x())[0], "float32")
