"""A recorded training step, on the CPU with a stand-in for CUDA's graphs, and on a GPU where there
is one."""

import dataclasses
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import qlstm
from qlstm import ExperimentConfig
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.study import cuda_graphs, training
from qlstm.study.checkpoints import Checkpoint
from qlstm.study.progress import Progress

SMALL = dict(profile="smoke", hidden_size=6, batch_size=4, epochs=3)
CHARACTERS = ExperimentConfig(**SMALL, steps=5, max_train=400)
WORDS = ExperimentConfig(
    **SMALL, task="word_lm", num_layers=2, steps=5, dropout=0.3, learning_rate=2.0, max_train=400)
IMAGES = ExperimentConfig(**SMALL, task="sequential_image", state_noise=0.1, max_train=18)


class Tape:
    """Stands for a CUDA graph: what is recorded is not done, and a replay runs no line of Python,
    but each operator again.

    Each reads and writes the memory that it had when it was recorded.
    """

    def __init__(self):
        self.recordings = 0

    def run(self, work):
        return work()

    def record(self, work):
        self.recordings += 1
        tape, before, made = [], {}, set()

        class Recording(TorchDispatchMode):
            def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
                keywords = keywords or {}
                for tensor in tree_leaves((arguments, keywords)):
                    if isinstance(tensor, torch.Tensor) and id(tensor) not in made | before.keys():
                        before[id(tensor)] = tensor, tensor.detach().clone()
                result = operator(*arguments, **keywords)
                tape.append((operator, arguments, keywords, result))
                made.update(map(id, tree_leaves(result)))
                return result

        with torch.random.fork_rng(devices=[]):
            with Recording():
                work()
            with torch.no_grad():
                for tensor, value in reversed(before.values()):
                    tensor.copy_(value)

        @torch.no_grad()
        def replay():
            for operator, arguments, keywords, result in tape:
                again = operator(*arguments, **keywords)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay


# on a machine with a GPU, Adam remarks that nothing is recorded there
pytestmark = pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")


def losses_and_parameters(config, recorder=None, report=pytest.fail):
    """Of ten updates: with a new start, another learning rate and a shorter minibatch in
    between."""
    torch.manual_seed(1)
    model = training.build_model(config).double().train()  # where rounding is no matter
    model.rnn.backend = "naive"
    optimizer = training.make_optimizer(config, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_recorder", lambda device: recorder)
        step = training.make_step(config, model, optimizer, report)
    assert isinstance(step, cuda_graphs.GraphedStep) == (recorder is not None)
    state, losses, given = None, [], []
    for number in range(10):
        steps = config.steps - (number == 7)
        if config.task == "sequential_image":
            inputs, targets = (torch.rand(steps, config.batch_size, 1).double(),
                               torch.randint(10, (config.batch_size,)))
        else:
            inputs, targets = torch.randint(20, (2, steps, config.batch_size)).unbind(0)
        given += [(inputs, inputs.clone()), (targets, targets.clone())]
        if number == 6:
            state = None
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].mul_(0.5)
                else:
                    group["lr"] *= 0.5
        loss, state = step(inputs, targets, state)
        losses.append(loss.item())
    assert all(torch.equal(now, then) for now, then in given)
    if recorder is not None:
        assert recorder.recordings == 1
    return losses, model.state_dict()


RECORDED = sorted(
    {
        *itertools.product(
            [CHARACTERS.task], set(QUANTIZERS) - {"sbn", "stn", *training.WAITING}, ["layer"]),
        *itertools.product([WORDS.task, IMAGES.task], ["binary_connect"], NORMALIZERS),
        (CHARACTERS.task, "sbn", "batch_separate"),
        (CHARACTERS.task, "stn", "batch_separate"),
    }
)


@pytest.mark.parametrize(("task", "quantizer", "normalizer"), RECORDED)
def test_a_recorded_step_trains_as_one_that_is_not(task, quantizer, normalizer):
    config = next(config for config in (CHARACTERS, WORDS, IMAGES) if config.task == task)
    config = dataclasses.replace(config, quantizer=quantizer, normalizer=normalizer)
    losses, parameters = losses_and_parameters(config)
    recorded_losses, recorded_parameters = losses_and_parameters(config, Tape())
    torch.testing.assert_close(recorded_losses, losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(recorded_parameters, parameters, rtol=1e-6, atol=1e-7)


# of its own release: sequences, no state that is carried, an Adam that starts anew, and rates of
# which some fall
SBN = dataclasses.replace(CHARACTERS, quantizer="sbn", normalizer="batch_separate",
                          carry_state=False, clip_norm=0.0, decay="latent")


@pytest.mark.parametrize(
    "config", [CHARACTERS, WORDS, IMAGES, SBN], ids=["characters", "words", "images", "sbn"])
def test_a_whole_run_and_a_resumed_one(tmp_path, monkeypatch, config):
    if config is not SBN:
        config = dataclasses.replace(config, quantizer="lab", normalizer="batch_separate")
    plain = qlstm.run(
        config, tmp_path / "plain", report=lambda line: None, device="cpu", backend="naive")
    monkeypatch.setattr(training, "make_recorder", lambda device: Tape())
    added, saved, epoch = Progress.add_epoch, Checkpoint.save, []

    def counted(self, *arguments):
        added(self, *arguments)
        epoch.append(self.epochs[-1]["epoch"])

    def killed(self, progress):
        saved(self, progress)
        if epoch == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "add_epoch", counted)
    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        qlstm.run(
            config, tmp_path / "recorded", report=lambda line: None, device="cpu", backend="naive")
    recorded = qlstm.run(
        config, tmp_path / "recorded", report=lambda line: None, device="cpu", backend="naive")
    assert epoch == [0, 1, 2, 3]
    for before, after in zip(plain["epochs"][1:], recorded["epochs"][1:], strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], rel=1e-4)
        assert after["learning_rate"] == before["learning_rate"]
    assert recorded["test_metric"] == pytest.approx(plain["test_metric"], rel=1e-3)


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is():
    class Refusing(Tape):
        def record(self, work):
            self.recordings += 1
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    lines = []
    losses, parameters = losses_and_parameters(CHARACTERS)
    refused_losses, refused_parameters = losses_and_parameters(CHARACTERS, Refusing(), lines.append)
    assert len(lines) == 1
    assert lines[0].endswith("slower: operation not permitted when stream is capturing")
    torch.testing.assert_close(refused_losses, losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(refused_parameters, parameters, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "own", [dict(quantizer="lat"), dict(quantizer="alternating"), dict(quantizer="torch:sign")])
def test_a_step_that_waits_for_a_value_is_not_recorded(monkeypatch, own):
    monkeypatch.setattr(training, "make_recorder", lambda device: pytest.fail)
    config = dataclasses.replace(CHARACTERS, **own)
    model = training.build_model(config)
    assert not isinstance(training.make_step(config, model, training.make_optimizer(config, model)),
                          cuda_graphs.GraphedStep)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("backend", ["naive", "triton"])
@pytest.mark.parametrize(("config", "normalizer"),
                         [*itertools.product([CHARACTERS, WORDS, IMAGES], NORMALIZERS)],
                         ids=lambda of: getattr(of, "task", of))
def test_a_graph_on_a_gpu_trains_as_its_steps_do(monkeypatch, config, normalizer, backend):
    config, lines = dataclasses.replace(config, quantizer="bwn", normalizer=normalizer), []
    recorded = qlstm.run(config, report=lines.append, backend=backend, device="cuda")
    assert not any("cannot be recorded" in line for line in lines)
    monkeypatch.setattr(training, "make_recorder", lambda device: None)
    plain = qlstm.run(config, report=lines.append, backend=backend, device="cuda")
    assert recorded["environment"]["backend"] == backend
    assert recorded["test_metric"] == pytest.approx(plain["test_metric"], rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_random_numbers_after_a_recording_that_failed():
    device = torch.device("cuda", torch.cuda.current_device())
    numbers = torch.rand(4, device=device)
    state = torch.cuda.get_rng_state()
    expected = torch.rand(4, device=device)
    torch.cuda.set_rng_state(state)
    with pytest.raises(RuntimeError):
        cuda_graphs.CudaGraph(device).record(lambda: torch.rand(4, device=device).sum().item())
    assert torch.equal(torch.rand(4, device=device), expected)
    assert not torch.equal(numbers, expected)
