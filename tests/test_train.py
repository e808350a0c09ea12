import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import types

import pytest
import torch
from tolerances import assert_close
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import qlstm
from qlstm import ExperimentConfig, LanguageModel, QuantLSTM, RecordError, data
from qlstm.data.storage import write_atomically
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.study import checkpoints, records, traces, training
from qlstm.study.checkpoints import Checkpoint
from qlstm.study.optimization import set_learning_rate
from qlstm.study.progress import Progress
from qlstm.study.run_data import RunData

TINY = ExperimentConfig(
    profile="smoke", hidden_size=8, steps=10, batch_size=8, epochs=4, max_train=480)
WORDS = ExperimentConfig(profile="smoke", task="word_lm", hidden_size=8, steps=6, batch_size=5,
                         max_train=800, epochs=3, learning_rate=2.0)
IMAGES = ExperimentConfig(profile="smoke", task="sequential_image", hidden_size=6, batch_size=16,
                          max_train=64, epochs=3, state_noise=0.1)


load_once = functools.cache(data.load_dataset)


@pytest.fixture(autouse=True)
def _each_data_set_is_read_once(monkeypatch):
    monkeypatch.setattr(data, "load_dataset", load_once)


def quiet(_):
    pass


def prepared(config):
    """What a run on the CPU trains with: its data, model, optimizer and step."""
    torch.manual_seed(config.seed)
    model = training.build_model(config)
    optimizer = training.make_optimizer(config, model)
    return types.SimpleNamespace(
        config=config, data=RunData(config, torch.device("cpu")), model=model,
        optimizer=optimizer, step=training.make_step(config, model, optimizer, quiet))


def train_epoch(run, rate):
    set_learning_rate(run.config, run.optimizer, rate)
    training.train_epoch(run.model, run.optimizer, run.step, run.data.minibatches("train"))


def comparable(record):
    return {key: value for key, value in record.items() if key not in records.VARYING}


@pytest.mark.parametrize(("quantizer", "normalizer"),
                         [("lab", "batch_separate"), ("sbn", "batch_separate"), ("bwn", "layer")])
def test_a_killed_run_ends_with_the_record_of_an_unbroken_one(tmp_path, quantizer, normalizer):
    config = dataclasses.replace(TINY, quantizer=quantizer, normalizer=normalizer)
    unbroken = qlstm.run(config, tmp_path / "unbroken", report=quiet)

    class Killed(BaseException):
        pass

    def kill_after(epoch):
        def report(line):
            if line.startswith(f"epoch {epoch}/"):
                raise Killed

        return report

    for epoch in (1, 3):
        with pytest.raises(Killed):
            qlstm.run(config, tmp_path / "broken", report=kill_after(epoch))
    lines = []
    resumed = qlstm.run(config, tmp_path / "broken", report=lines.append)
    assert "going on after epoch 3" in lines[0]
    assert (
        comparable(resumed) == comparable(unbroken) == comparable(qlstm.run(config, report=quiet)))
    models = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert models[0] == models[1]
    history = [
        json.loads(line) for line in (tmp_path / "broken" / "epochs.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in history] == [0, 1, 2, 3, 4]


def run_in_another_process(config, directory):
    settings = f"qlstm.ExperimentConfig(**{config.as_dict()!r})"
    return f"import qlstm; qlstm.run({settings}, {str(directory)!r})"


def test_kill_9_in_the_middle_of_an_epoch(tmp_path):
    config = dataclasses.replace(TINY, epochs=6)
    script = run_in_another_process(config, tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "killed" / "record.json").exists()
    resumed = qlstm.run(config, tmp_path / "killed", report=quiet)
    assert comparable(resumed) == comparable(qlstm.run(config, report=quiet))


def test_a_finished_run_is_not_repeated(tmp_path):
    first = qlstm.run(TINY, tmp_path, report=quiet)
    lines = []
    assert qlstm.run(TINY, tmp_path, report=lines.append) == first
    assert len(lines) == 1
    assert "already done" in lines[0]
    other = qlstm.run(
        dataclasses.replace(TINY, epochs=2), tmp_path, report=quiet
    )  # other settings: not this record
    assert len(other["epochs"]) == 3


@pytest.mark.parametrize("damage", ["empty", "torn", "altered", "foreign"])
def test_a_torn_or_foreign_checkpoint_starts_the_run_anew(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        qlstm.run(dataclasses.replace(TINY, seed=5 if damage == "foreign" else 0), tmp_path,
                  report=interrupt)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    altered = (whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1])
               + whole[len(whole) // 2 + 1 :])
    path.write_bytes(
        {"empty": b"", "torn": whole[: len(whole) // 2], "altered": altered, "foreign": whole}[
            damage]
    )
    lines = []
    record = qlstm.run(TINY, tmp_path, report=lines.append)
    assert "starting anew" in lines[0]
    assert comparable(record) == comparable(qlstm.run(TINY, report=quiet))


@pytest.mark.parametrize("losses", [(2.0, 1.0), (1.0, 2.0)], ids=["the last", "the first"])
def test_a_checkpoint_has_the_best_epochs_weights_once(tmp_path, losses):
    prepared_run, progress = prepared(TINY), Progress([{"epoch": 0}])
    model = prepared_run.model
    checkpoint = Checkpoint(tmp_path, TINY, "text", model, prepared_run.optimizer)
    for loss in losses:
        torch.nn.init.constant_(model.decoder.bias, loss)
        progress.add_epoch({"valid_loss": loss}, model)
    checkpoint.save(progress)
    saved = checkpoints.read(tmp_path / "checkpoint.pt", torch.device("cpu"))
    assert (saved["best"] is None) == (losses == (2.0, 1.0))
    with torch.no_grad():
        model.decoder.bias.fill_(9.0)
    best = checkpoint.resume(quiet).best
    assert (model.decoder.bias == losses[-1]).all()
    torch.nn.init.zeros_(model.decoder.bias)  # training goes on
    assert (best["decoder.bias"] == 1.0).all()


def test_a_lost_record_is_made_again_without_training(tmp_path, monkeypatch):
    record = qlstm.run(TINY, tmp_path, report=quiet)
    (
        tmp_path / "record.json"
    ).unlink()
    monkeypatch.setattr(training, "train_epoch", None)
    assert comparable(qlstm.run(TINY, tmp_path, report=quiet)) == comparable(record)


def interrupt(line):
    raise KeyboardInterrupt


def test_a_full_disk_loses_no_finished_epoch(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        qlstm.run(TINY, tmp_path, report=interrupt)
    kept = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            qlstm.run(TINY, tmp_path, report=quiet)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert not list(tmp_path.glob(".checkpoint*"))
    assert comparable(qlstm.run(TINY, tmp_path, report=quiet)) == comparable(
        qlstm.run(TINY, report=quiet))


def test_two_processes_on_one_run_take_turns(tmp_path):
    config = dataclasses.replace(TINY, epochs=6)
    script = run_in_another_process(config, tmp_path)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    lines = []
    record = qlstm.run(config, tmp_path, report=lines.append)
    process.communicate()
    assert process.returncode == 0
    assert "another process trains this run" in lines[0]
    assert "already done" in lines[-1]
    assert record["best_epoch"] >= 1


def test_a_run_whose_loss_is_not_finite_is_recorded_as_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        training, "learning_rate", lambda config, epoch, _: 3e38 if epoch == 2 else 0.001)
    record = qlstm.run(TINY, tmp_path, report=quiet)
    assert record["diverged"]
    assert record["test_metric"] is record["valid_metric"] is record["best_epoch"] is None
    assert [epoch["epoch"] for epoch in record["epochs"]] == [0, 1, 2]
    assert record["epochs"][-1]["diverged"]
    assert not (tmp_path / "model.safetensors").exists()


def test_the_record(tmp_path):
    torch.manual_seed(123)
    before = torch.rand(3)
    torch.manual_seed(123)
    record = qlstm.run(dataclasses.replace(TINY, quantizer="bwn"), tmp_path, report=quiet)
    assert torch.equal(torch.rand(3), before)  # the caller's random numbers are left alone
    assert set(records.REQUIRED) == set(record)
    assert record["metric"] == "bpc"
    valid = {epoch["epoch"]: epoch["valid_loss"] for epoch in record["epochs"][1:]}
    assert record["best_epoch"] == min(valid, key=valid.get)
    assert record["valid_metric"] == pytest.approx(min(valid.values()) / math.log(2), rel=1e-12)
    assert (record["schema"], record["recipe"]) == (4, 1)
    assert record["data"]["sizes"] == {"train": 480, "valid": 60, "test": 60}
    assert record["packed_bytes"] < 2 * 1024 * record["size_kb"]
    for line in record["epochs"][1:]:
        assert line["valid_metric"] == pytest.approx(line["valid_loss"] / math.log(2), rel=1e-12)
        assert 1 < line["train_loss"] < 6
    for line in record["epochs"]:
        assert (
            len(line["spectral"]["before"]["norms"]) == len(line["spectral"]["after"]["norms"]) == 4
        )
    assert len(record["epochs"][0]["alpha"][0]) == 4
    norms = record["traces"]["gradient_norms"]
    assert set(norms) == {"initial", "epoch 1", "best"}
    for moment in norms.values():
        assert moment.pop("steps") == list(range(1, 11))
        assert set(moment) == {"training", "last_step"}
        assert all(len(lines) == 8 and len(lines[0]) == 10 for lines in moment.values())
    propositions = record["traces"]["propositions"]
    assert set(propositions) == {"initial", "epoch 1", "best"}
    for moment in propositions.values():
        assert 0 < moment["ratio"] <= 1
        assert len(moment["lambda_1"]) == len(moment["lambda_2"]) == len(moment["steps"]) > 0


def test_the_metric_is_the_models_bits_per_character(tmp_path):
    config = dataclasses.replace(TINY, normalizer="batch_shared", max_train=1600)
    record = qlstm.run(config, tmp_path, report=quiet)
    model, loaded = qlstm.load_model(tmp_path)
    assert loaded == record
    text = qlstm.load_dataset("python_help").test[:200].long()
    streams = text[: 200 // 64 * 64].view(64, -1).T  # 64 streams of 3 symbols, 2 of them predicted
    logits, _ = model(streams[:-1])
    loss = F.cross_entropy(logits.flatten(0, 1), streams[1:].flatten())
    assert loss.item() / math.log(2) == pytest.approx(record["test_metric"], rel=1e-5)


def test_state_is_carried_over_minibatches_and_epochs_start_from_zero(monkeypatch):
    seen = []
    forward = LanguageModel.forward

    def watched(self, symbols, state=None, **more):
        logits, new = forward(self, symbols, state, **more)
        if self.training and not more:
            seen.append((state, new))
        return logits, new

    monkeypatch.setattr(LanguageModel, "forward", watched)
    qlstm.run(dataclasses.replace(TINY, epochs=2), report=quiet)
    half = len(seen) // 2
    assert seen[0][0] is None
    assert seen[half][0] is None
    for (_, (h, c)), (state, _) in itertools.pairwise(seen[:half]):
        assert torch.equal(state[0], h)
        assert torch.equal(state[1], c)
        assert not state[0].requires_grad


def test_the_schedule_decays_first_in_epoch_12():
    config = ExperimentConfig(profile="paper", dataset="penn_char")
    rates = [training.learning_rate(config, epoch, []) for epoch in (1, 11, 12, 13, 200)]
    assert rates == pytest.approx([0.002, 0.002, 0.002 * 0.98, 0.002 * 0.98**2, 0.002 * 0.98**189])
    constant = ExperimentConfig(profile="paper", dataset="text8")
    assert training.learning_rate(constant, 100, []) == 0.001


def test_loss_aware_quantizers_see_adams_second_moment():
    config = dataclasses.replace(TINY, quantizer="lab")
    run = prepared(config)
    train_epoch(run, 0.01)
    moment = run.optimizer.state[run.model.rnn.weight_hh_l0]["exp_avg_sq"]
    assert torch.equal(run.model.rnn.second_moment_hh_l0, moment)
    diagonal = moment.sqrt() + 1e-8
    weight = run.model.rnn.weight_hh_l0.detach()
    alpha = [(d * w.abs()).sum() / d.sum()
             for d, w in zip(diagonal.chunk(4), weight.chunk(4), strict=True)]
    assert torch.allclose(
        run.model.rnn.quantized("weight_hh_l0").scales.flatten(), torch.stack(alpha))


def test_gradient_norms_are_total_derivatives():
    torch.manual_seed(0)
    model = LanguageModel(7, 5).double()
    inputs, targets = torch.randint(7, (2, 6, 3))
    lines = traces.gradient_norms(model, inputs, targets)
    # independent: nn.LSTM, started again at step t from h_t, whose gradient is then the total one
    plain = torch.nn.LSTM(7, 5).double()
    with torch.no_grad():
        plain.weight_ih_l0.copy_(model.rnn.weight_ih_l0)
        plain.weight_hh_l0.copy_(model.rnn.weight_hh_l0)
        plain.bias_ih_l0.copy_(model.rnn.bias_l0)
        plain.bias_hh_l0.zero_()
    x = F.one_hot(inputs, 7).double()
    for t in range(1, 6):
        _, (h, c) = plain(x[:t])
        h = h.detach().requires_grad_()
        logits = model.decoder(torch.cat([h, plain(x[t:], (h, c.detach()))[0]]))
        every = (F.cross_entropy(logits.flatten(0, 1), targets[t - 1 :].flatten(), reduction="sum")
                 / targets.numel())
        last = F.cross_entropy(logits[-1], targets[-1])
        for name, loss in (("training", every), ("last_step", last)):
            (gradient,) = torch.autograd.grad(loss, h, retain_graph=True)
            ours = torch.tensor([line[t - 1] for line in lines[name]], dtype=torch.float64)
            assert torch.allclose(ours, gradient[0].norm(dim=-1), rtol=1e-5)


def halved(product):
    return torch.lerp(product, torch.zeros(product.shape), 0.5)  # refuses another precision


def halved_sign(weight):
    return torch.sign(halved(weight))


@pytest.mark.parametrize(
    ("quantizer", "normalizer"),
    [(halved_sign, "layer"), ("twn", halved), (halved_sign, halved)])
def test_traces_of_functions_that_know_float32_alone(quantizer, normalizer):
    model = LanguageModel(7, 5, 2, quantizer=quantizer, normalizer=normalizer)
    minibatch = (model, *torch.randint(7, (2, 6, 3)))
    assert len(traces.gradient_norms(*minibatch)["training"]) == 3
    assert "norms" in traces.spectral(*minibatch[:2])["after"]
    found = traces.propositions(*minibatch)
    assert (found is None) == (normalizer is halved)
    if found is not None:
        assert found["ratio"] <= 1 + 1e-6


def test_traces_leave_the_model_and_the_random_numbers_alone():
    torch.manual_seed(0)
    model = LanguageModel(7, 5, quantizer="sbn", normalizer="batch_separate", max_steps=6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    lines = traces.gradient_norms(
        model, *torch.randint(7, (2, 6, 3), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(lines["training"]) == 1  # batch norm: the root mean square over the samples


def test_g_star_of_batch_norm_is_the_gain_of_the_largest_ratio():
    lstm = QuantLSTM(3, 4, normalizer="batch_separate", max_steps=2)
    norm = lstm.norm_hh_l0
    with torch.no_grad():
        norm.gain.fill_(0.5)
        norm.running_var.fill_(1.0)
        norm.gain[1, 2], norm.running_var[1, 1, 3] = (
            -0.9,
            0.01,
        )  # a large gain; a small variance at the second step
    found = traces.gains(lstm)
    assert found["g"] == [pytest.approx([0.5, 0.5, 0.5, 0.5])]
    assert found["sigma"][0][1] == pytest.approx(0.1, rel=1e-3)


def test_a_damaged_or_edited_record_is_refused_by_name(tmp_path):
    qlstm.run(TINY, tmp_path, report=quiet)
    path = tmp_path / "record.json"
    good = path.read_text()
    for bad in (good[: len(good) // 2], "[]", "{}",
                good.replace('"best_epoch": ', '"best_epoch": 1')):
        path.write_text(bad)
        with pytest.raises(RecordError, match=r"record\.json"):
            records.load(path)
    path.write_text(good)
    assert records.load(path)["metric"] == "bpc"


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"whole")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"torn")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", ["EINVAL", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_fsync_or_permissions_is_written_to(tmp_path, monkeypatch, missing):
    def refuses(*_):
        raise OSError(getattr(errno, missing), "not here")

    for call in ("fsync", "chmod", "fchmod"):
        monkeypatch.setattr(os, call, refuses)
    for content in (b"whole", b"replaced"):
        write_atomically(tmp_path / "record.json", content)
        assert (tmp_path / "record.json").read_bytes() == content
    assert list(tmp_path.iterdir()) == [tmp_path / "record.json"]


def test_max_train_limits_all_three_parts():
    run = prepared(dataclasses.replace(TINY, max_train=1600))
    assert {name: len(part) for name, part in run.data.splits.items()} == {
        "train": 1600, "valid": 200, "test": 200}
    assert data.count_predicted(1600, 8) == 8 * 199


def losses_for(decays):
    """The learning rates of words after these validation losses."""
    config = dataclasses.replace(WORDS, learning_rate=20.0)
    return [training.learning_rate(config, epoch + 1, decays[:epoch])
            for epoch in range(len(decays) + 1)]


def test_words_divide_the_rate_by_four_after_each_epoch_not_below_the_best():
    #        best  below  equal: not  above  below the last, not the best  below
    losses = [5.0, 4.0, 4.0, 4.5, 4.2, 3.9]
    assert losses_for(losses) == [20.0, 20.0, 20.0, 5.0, 1.25, 0.3125, 0.3125]
    assert losses_for([math.inf, 3.0]) == [20.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "quantizer", ["full_precision", "binary_connect", "bwn", "ter_connect", "twn", "lab"])
def test_words_train_with_sgd_and_bc_and_tc_scale_the_rate_of_the_matrices(quantizer):
    config = dataclasses.replace(
        WORDS, quantizer=quantizer, normalizer="weight", num_layers=2, hidden_size=16)
    run = prepared(config)
    assert type(run.optimizer) is torch.optim.SGD
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    gradients = []
    step = run.optimizer.step

    def watched():
        gradients.append({name: p.grad.clone() for name, p in run.model.named_parameters()})
        step()

    run.optimizer.step = watched
    run.data.splits["train"] = run.data.splits["train"][:35]  # one minibatch
    train_epoch(run, 0.5)
    assert len(gradients) == 1
    norm = torch.stack([g.norm() for g in gradients[0].values()]).norm()
    assert norm <= 0.25 * (1 + 1e-5)
    scaled = []
    for name, parameter in run.model.named_parameters():
        factor = (2 * 16**0.5
                  if quantizer in ("binary_connect", "ter_connect") and ".weight_" in name else 1)
        if factor != 1:
            scaled.append(name)
        assert torch.allclose(
            parameter, before[name] - 0.5 * factor * gradients[0][name], atol=1e-6), name
    assert len(scaled) == (4 if quantizer in ("binary_connect", "ter_connect") else 0)


@pytest.mark.parametrize("config", [TINY, IMAGES])
def test_characters_and_images_train_with_adam_at_one_rate(config):
    run = prepared(dataclasses.replace(config, quantizer="binary_connect"))
    train_epoch(run, 0.125)
    assert type(run.optimizer) is torch.optim.Adam
    groups = run.optimizer.param_groups
    for group in groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.125, (0.9, 0.999), 1e-8)
    own = sorted(id(parameter) for group in groups for parameter in group["params"])
    assert own == sorted(map(id, run.model.parameters()))


@pytest.mark.parametrize("config", [TINY, WORDS])
def test_whose_rate_falls(config):
    def rates(**settings):
        run = prepared(dataclasses.replace(config, **settings))
        train_epoch(run, 0.125)
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        return {names[id(p)]: group["lr"] for group in run.optimizer.param_groups
                for p in group["params"]}

    latent = {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert set(rates(decay="all", quantizer="bwn").values()) == {0.125}
    found = rates(decay="latent", quantizer="bwn")
    assert {name for name, rate in found.items() if rate == 0.125} == latent
    assert {rate for name, rate in found.items() if name not in latent} == {config.learning_rate}
    # in full precision nothing is latent
    assert set(rates(decay="latent").values()) == {config.learning_rate}


def test_words_end_when_their_rate_is_spent():
    config = dataclasses.replace(WORDS, epochs=40, max_train=400, learning_rate=20.0)
    record = qlstm.run(dataclasses.replace(config, min_learning_rate=5.0), report=quiet)
    whole = qlstm.run(config, report=quiet)
    rates = [line["learning_rate"] for line in whole["epochs"][1:]]
    spent = sum(rate >= 5 for rate in rates)
    assert 1 < spent < 40
    assert len(record["epochs"]) - 1 == spent
    assert record["epochs"] == whole["epochs"][: spent + 1]
    assert record["best_epoch"] <= spent
    # rates that do not fall are never spent
    latent = dataclasses.replace(config, epochs=spent + 1, min_learning_rate=5.0, decay="latent")
    assert len(qlstm.run(latent, report=quiet)["epochs"]) == spent + 2


def test_two_biases_train_as_those_of_torch():
    torch.manual_seed(0)
    ours, theirs = QuantLSTM(3, 4, biases=2), torch.nn.LSTM(3, 4)
    theirs.load_state_dict(
        {name.replace("bias_l0", "bias_ih_l0"): value for name, value in ours.state_dict().items()})
    for _ in range(3):
        x, gradients = torch.randn(5, 2, 3), []
        for lstm in (ours, theirs):
            optimizer = torch.optim.SGD(lstm.parameters(), lr=0.5)
            optimizer.zero_grad()
            lstm(x)[0].square().sum().backward()
            gradients.append(torch.nn.utils.clip_grad_norm_(lstm.parameters(), 0.1))
            optimizer.step()
        assert_close(*gradients, "float32")
    for name, value in ours.named_parameters():
        assert_close(value, theirs.get_parameter(name.replace("bias_l0", "bias_ih_l0")), "float32")
    assert not torch.equal(ours.bias_l0, ours.bias_hh_l0)
    assert torch.equal(ours.bias_vector(0), ours.bias_l0 + ours.bias_hh_l0)
    config = dataclasses.replace(WORDS, biases=2)
    assert qlstm.size_kb(config) - qlstm.size_kb(WORDS) == 4 * 8 * 4 / 1024


def test_sequences_that_carry_no_state():
    config = dataclasses.replace(TINY, carry_state=False)
    run = prepared(config)
    assert run.model.initial_state.shape == (2, 1, 8)
    inputs, targets = next(run.data.minibatches("train"))
    _, state = run.step(inputs, targets, None)
    assert state is None
    with torch.no_grad():
        run.model.initial_state.fill_(0.5)  # it is where every minibatch starts
    given = tuple(torch.full((1, inputs.shape[1], 8), 0.5) for _ in range(2))
    assert torch.equal(run.model(inputs)[0], run.model(inputs, given)[0])
    # evaluation starts each minibatch anew, too
    run.model.eval()
    logits = torch.cat([run.model(x)[0].flatten(0, -2) for x, _ in run.data.minibatches("valid")])
    correct = torch.cat([y.flatten() for _, y in run.data.minibatches("valid")])
    loss, _ = training.evaluate(config, run.model, run.data.minibatches("valid"))
    assert loss == pytest.approx(
        F.cross_entropy(logits, correct).item(), rel=1e-5)
    before = run.model.initial_state.clone()
    train_epoch(run, 0.01)
    assert (run.model.initial_state != before).all()


def assert_orthogonal(matrix):
    flat = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
    assert_close(flat @ flat.T, torch.eye(len(flat)), "float32")


def test_stochastic_networks_start_as_in_their_release():
    def build(config):
        own = dataclasses.replace(
            config, quantizer="stn", normalizer="batch_separate", hidden_size=9)
        return training.build_model(own)

    characters, words, images = (build(dataclasses.replace(TINY, carry_state=False)), build(WORDS),
                                 build(IMAGES))
    for model, forget in ((characters, 1), (words, 0), (images, 1)):
        assert model.rnn.bias_l0.tolist() == [0] * 9 + [forget] * 9 + [0] * 18
        assert not model.decoder.bias.any()
        assert_orthogonal(model.decoder.weight)
        for side in ("ih", "hh", "c"):
            norm = getattr(model.rnn, f"norm_{side}_l0")
            assert (norm.momentum, norm.biased) == (0.05, True)
            assert (norm.gain == 0.1).all()
            assert isinstance(norm.shift, torch.nn.Parameter) == (side == "c")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert_orthogonal(getattr(characters.rnn, name))
        assert getattr(words.rnn, name).abs().max() <= 0.1
        bound = math.sqrt(6 / (getattr(images.rnn, name).shape[1] + 36))
        assert 0.9 * bound < getattr(images.rnn, name).abs().max() <= bound
    assert images.rnn.quantizes("weight_ih_l0")
    # noise on h_0 alone: with gates that are shut against the input, c_1 = sig(f) c_0 has none
    states = []
    images.rnn.register_forward_pre_hook(lambda _, arguments: states.append(arguments[1]))
    images(torch.zeros(3, 5, 1))
    (h, c) = states[0]
    assert h.std() > 0.03
    assert not c.any()


def test_adam_starts_anew_with_each_epoch_of_a_stochastic_network():
    config = dataclasses.replace(
        TINY, quantizer="sbn", normalizer="batch_separate", carry_state=False, clip_norm=0.0)
    for quantizer, epochs in (("sbn", 1), ("bwn", 2)):
        run = prepared(dataclasses.replace(config, quantizer=quantizer))
        train_epoch(run, 0.01)
        steps = run.optimizer.state[run.model.decoder.bias]["step"].item()
        train_epoch(run, 0.01)
        assert run.optimizer.state[run.model.decoder.bias]["step"].item() == epochs * steps


def test_the_models_that_are_built():
    words = training.build_model(dataclasses.replace(WORDS, num_layers=2))
    assert words.embedding.weight.shape[1] == words.rnn.input_size == 8
    assert words.dropout == words.rnn.dropout == 0.5
    images = training.build_model(dataclasses.replace(IMAGES, normalizer="layer", initial_gain=0.1))
    assert images.state_noise == 0.1
    assert not images.rnn.quantize_input
    assert (images.rnn.norm_hh_l0.gain == 0.1).all()
    assert isinstance(
        training.build_model(dataclasses.replace(IMAGES, cell="gru")).rnn, qlstm.QuantGRU)
    assert training.build_model(TINY).embedding is None


def test_the_rate_of_images_falls_exponentially_to_its_half():
    config = ExperimentConfig(profile="paper", dataset="mnist")
    rates = [training.learning_rate(config, epoch, []) for epoch in range(1, 201)]
    # the release divides after each epoch, the last one included: 0.001 is what a 201st would have
    assert (rates[0], rates[-1] * 0.5 ** (1 / 200)) == pytest.approx((0.002, 0.001), rel=1e-12)
    for a, b in itertools.pairwise(rates):
        assert b / a == pytest.approx(0.5 ** (1 / 200), rel=1e-12)
    assert training.learning_rate(dataclasses.replace(config, epochs=1), 1, []) == 0.002


class Killed(BaseException):
    pass


def broken_after(config, directory, *epochs):
    """A run that is killed after each of these epochs, and its record at last."""
    for epoch in epochs:

        def report(line, start=f"epoch {epoch}/"):
            if line.startswith(start):
                raise Killed

        with pytest.raises(Killed):
            qlstm.run(config, directory, report=report)
    return qlstm.run(config, directory, report=quiet)


VARIED = [
    dataclasses.replace(
        WORDS, quantizer="binary_connect", normalizer="batch_separate", num_layers=2),
    dataclasses.replace(WORDS, quantizer="twn", cell="gru"),
    dataclasses.replace(IMAGES, quantizer="lat", normalizer="batch_shared"),
    dataclasses.replace(IMAGES, permuted=True, cell="gru"),
]


@pytest.mark.parametrize("config", VARIED, ids=lambda config: config.run_id)
def test_the_same_seed_gives_the_same_record_interrupted_or_not(tmp_path, config):
    unbroken = qlstm.run(config, tmp_path / "unbroken", report=quiet)
    resumed = broken_after(config, tmp_path / "broken", 2)
    assert comparable(resumed) == comparable(unbroken)
    assert json.dumps(comparable(qlstm.run(config, report=quiet))) == json.dumps(
        comparable(unbroken))
    models = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert models[0] == models[1]
    other = qlstm.run(dataclasses.replace(config, seed=1, epochs=1), report=quiet)
    assert other["epochs"][1]["train_loss"] != unbroken["epochs"][1]["train_loss"]
    norms = unbroken["traces"]["gradient_norms"]["best"]
    assert norms["steps"] == list(range(1, config.steps + 1))
    assert ("last_step" in norms) == (config.task == "word_lm")
    assert len(norms["training"][0]) == config.steps
    assert unbroken["packed_bytes"] > 0


def test_the_learning_rate_of_words_is_taken_up_where_it_was(tmp_path, monkeypatch):
    scripted = iter([5.0, 6.0, 6.0, 4.0, 4.5, 5.0] * 2)  # the last one of a run: on the test part
    monkeypatch.setattr(training, "evaluate",
                        lambda *_: (loss := next(scripted), math.exp(loss)))
    config = dataclasses.replace(WORDS, epochs=5)
    rates = [line["learning_rate"] for line in qlstm.run(config, report=quiet)["epochs"][1:]]
    assert rates == [2.0, 2.0, 0.5, 0.125, 0.125]
    resumed = broken_after(config, tmp_path, 3)
    assert [line["learning_rate"] for line in resumed["epochs"][1:]] == rates
    assert resumed["best_epoch"] == 4


@pytest.mark.parametrize(("config", "name"), [(WORDS, "ppl"), (IMAGES, "accuracy")])
def test_the_metric_of_words_and_images(tmp_path, config, name):
    config = dataclasses.replace(config, quantizer="bwn", normalizer="layer")
    record = qlstm.run(config, tmp_path, report=quiet)
    model, loaded = qlstm.load_model(tmp_path)
    assert loaded == record
    assert record["metric"] == name
    assert not model.training
    valid = [line["valid_loss"] for line in record["epochs"][1:]]
    assert record["best_epoch"] == 1 + valid.index(min(valid))
    dataset = qlstm.load_dataset(config.dataset)
    if name == "ppl":
        assert record["data"]["sizes"] == {"train": 800, "valid": 100, "test": 100}
        streams = (
            dataset.test[:100].long().view(50, 2).T
        )  # fewer than 64 streams: two words each at least
        logits, _ = model(streams[:-1])
        expected = math.exp(F.cross_entropy(logits.flatten(0, 1), streams[1:].flatten()).item())
    else:
        assert record["data"]["sizes"] == {"train": 64, "valid": 8, "test": 8}
        pixels, labels = (part[:8] for part in dataset.test)
        logits, _ = model(pixels.T[..., None] / 16)
        expected = 100 * (logits.argmax(1) == labels).double().mean().item()
    assert record["test_metric"] == pytest.approx(expected, rel=1e-5)


def test_the_best_epoch_of_images_is_that_of_the_least_loss(monkeypatch):
    scripted = iter([(0.5, 85.0), (0.7, 90.0), (0.5, 80.0), (0.6, 70.0)])  # the last: test
    monkeypatch.setattr(training, "evaluate", lambda *_: next(scripted))
    record = qlstm.run(IMAGES, report=quiet)
    assert (record["best_epoch"], record["valid_metric"], record["test_metric"]) == (1, 85.0, 70.0)


def test_images_are_shuffled_anew_in_each_epoch_and_in_training_only(monkeypatch):
    orders = []
    minibatches = data.image_minibatches

    def watched(split, batch_size, *, order, **more):
        orders.append(
            (len(split[1]), batch_size, None if order is None else order.tolist(), more["permuted"])
        )
        return minibatches(split, batch_size, order=order, **more)

    monkeypatch.setattr(data, "image_minibatches", watched)
    qlstm.run(dataclasses.replace(IMAGES, permuted=True), report=quiet)
    shuffled = [order for n, _, order, _ in orders if order is not None]
    assert len(shuffled) == 3
    assert all(sorted(order) == list(range(64)) for order in shuffled)
    assert len(set(map(tuple, [*shuffled, range(64)]))) == 4
    assert all(permuted for *_, permuted in orders)
    assert {(n, size) for n, size, *_ in orders} == {(64, 16), (8, 250)}


def test_permuted_pixels_are_another_run():
    (plain, _), (permuted, _) = (
        next(prepared(dataclasses.replace(IMAGES, permuted=p)).data.minibatches("valid"))
        for p in (False, True))
    assert torch.equal(permuted, plain[data.pixel_permutation(64)])
    assert not torch.equal(permuted, plain)


@pytest.mark.parametrize("config", [TINY, WORDS, IMAGES])
def test_a_quantizer_of_ones_own_trains_to_a_record(tmp_path, config):
    config = dataclasses.replace(config, quantizer="torch:sign", epochs=1)
    said = []
    record = qlstm.run(config, tmp_path, report=said.append)
    assert record["packed_bytes"] is record["size_kb"] is None
    assert said[-1].endswith("size unknown")
    assert not record["diverged"]
    assert not (tmp_path / "packed.safetensors").exists()
    model, _ = qlstm.load_model(tmp_path)
    assert set(model.rnn.effective_weight("weight_hh_l0").unique().tolist()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("quantizer", ["alternating", "lat"])
@pytest.mark.parametrize("config", [WORDS, IMAGES], ids=lambda config: config.task)
def test_words_and_images_that_diverge(tmp_path, monkeypatch, config, quantizer):
    plain, epochs = training.train_epoch, itertools.count(1)

    def poisoned(model, *arguments):
        if next(epochs) == 2:
            with torch.no_grad():
                model.rnn.bias_l0[0] = math.nan  # after one update every parameter is NaN
        return plain(model, *arguments)

    monkeypatch.setattr(training, "train_epoch", poisoned)
    record = qlstm.run(dataclasses.replace(config, quantizer=quantizer), tmp_path, report=quiet)
    assert record["diverged"]
    assert record["test_metric"] is record["best_epoch"] is None
    assert [line["epoch"] for line in record["epochs"]] == [0, 1, 2]
    assert not (tmp_path / "model.safetensors").exists()


# LAT alternates until its scale stands still, which has to be looked at
NEVER_WAITING = sorted(
    {*itertools.product(set(QUANTIZERS) - {"sbn", "stn", "lat"}, ["layer"]),
     *itertools.product(["binary_connect"], NORMALIZERS), ("sbn", "batch_separate")}
)


@pytest.mark.parametrize(("quantizer", "normalizer"), NEVER_WAITING)
def test_a_training_step_never_waits_for_a_value(quantizer, normalizer):
    """A GPU is given a whole step without being asked for a number; fake tensors have none and
    refuse such a question."""
    with FakeTensorMode():
        config = dataclasses.replace(TINY, quantizer=quantizer, normalizer=normalizer)
        model = training.build_model(config).train()
        model.rnn.backend = "naive"
        optimizer = training.make_optimizer(config, model)
        inputs, targets = torch.randint(2, (2, config.steps, config.batch_size)).unbind(0)
        state = None
        for _ in range(2):
            loss, state = training.update(
                model, optimizer, inputs, targets, state, config.clip_norm)
    assert loss.shape == ()
