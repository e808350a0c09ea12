import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.nn import functional as F

import qlstm
from qlstm import ExperimentConfig, LanguageModel, QuantLSTM, RecordError, data, records, traces, train

TINY = ExperimentConfig(profile="smoke", hidden_size=8, steps=10, batch_size=8, epochs=4, max_symbols=1600)


def quiet(_):
    pass


def comparable(record):
    return {key: value for key, value in record.items() if key not in records.VARYING}


@pytest.mark.parametrize(
    ("quantizer", "normalizer"), [("lab", "batch_separate"), ("sbn", "batch_separate"), ("bwn", "layer")]
)
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
    assert comparable(resumed) == comparable(unbroken) == comparable(qlstm.run(config, report=quiet))
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert models[0] == models[1]
    history = [json.loads(line) for line in (tmp_path / "broken" / "epochs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [0, 1, 2, 3, 4]


def test_kill_9_in_the_middle_of_an_epoch(tmp_path):
    config = dataclasses.replace(TINY, epochs=10)
    script = f"import qlstm; qlstm.run(qlstm.ExperimentConfig(**{config.as_dict()!r}), {str(tmp_path / 'killed')!r})"
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
    other = qlstm.run(dataclasses.replace(TINY, epochs=2), tmp_path, report=quiet)  # other settings: not this record
    assert len(other["epochs"]) == 3


@pytest.mark.parametrize("damage", ["empty", "torn", "altered", "foreign"])
def test_a_torn_or_foreign_checkpoint_starts_the_run_anew(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        qlstm.run(dataclasses.replace(TINY, seed=5 if damage == "foreign" else 0), tmp_path, report=interrupt)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    altered = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    path.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "altered": altered, "foreign": whole}[damage])
    lines = []
    record = qlstm.run(TINY, tmp_path, report=lines.append)
    assert "starting anew" in lines[0]
    assert comparable(record) == comparable(qlstm.run(TINY, report=quiet))


def test_a_lost_record_is_made_again_without_training(tmp_path, monkeypatch):
    record = qlstm.run(TINY, tmp_path, report=quiet)
    (tmp_path / "record.json").unlink()  # as the engine does when it was killed before it had noted the end of the job
    monkeypatch.setattr(train._Run, "_train", None)
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
    assert comparable(qlstm.run(TINY, tmp_path, report=quiet)) == comparable(qlstm.run(TINY, report=quiet))


def test_two_processes_on_one_run_take_turns(tmp_path):
    config = dataclasses.replace(TINY, epochs=15)
    script = f"import qlstm; qlstm.run(qlstm.ExperimentConfig(**{config.as_dict()!r}), {str(tmp_path)!r})"
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
    monkeypatch.setattr(train, "learning_rate", lambda config, epoch: 3e38 if epoch == 2 else 0.001)
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
    valid = {epoch["epoch"]: epoch["valid_bpc"] for epoch in record["epochs"][1:]}
    assert record["best_epoch"] == min(valid, key=valid.get)
    assert record["valid_metric"] == min(valid.values())
    assert len(record["epochs"][0]["alpha"][0]) == 4
    norms = record["traces"]["gradient_norms"]
    assert set(norms) == {"initial", "epoch 1", "best"}
    assert all(len(lines) == 8 and len(lines[0]) == 10 for moment in norms.values() for lines in moment.values())


def test_the_metric_is_the_models_bits_per_character(tmp_path):
    record = qlstm.run(dataclasses.replace(TINY, normalizer="batch_shared"), tmp_path, report=quiet)
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
    rates = [train.learning_rate(config, epoch) for epoch in (1, 11, 12, 13, 200)]
    assert rates == pytest.approx([0.002, 0.002, 0.002 * 0.98, 0.002 * 0.98**2, 0.002 * 0.98**189])
    constant = ExperimentConfig(profile="paper", dataset="text8")
    assert train.learning_rate(constant, 100) == 0.001


def test_loss_aware_quantizers_see_adams_second_moment():
    config = dataclasses.replace(TINY, quantizer="lab")
    run = train._Run(config, None, "cpu", "auto", quiet)
    run._train(0.01)
    moment = run.optimizer.state[run.model.rnn.weight_hh_l0]["exp_avg_sq"]
    assert torch.equal(run.model.rnn.second_moment_hh_l0, moment)
    diagonal = moment.sqrt() + 1e-8
    weight = run.model.rnn.weight_hh_l0.detach()
    alpha = [(d * w.abs()).sum() / d.sum() for d, w in zip(diagonal.chunk(4), weight.chunk(4), strict=True)]
    assert torch.allclose(run.model.rnn.quantized("weight_hh_l0").scales.flatten(), torch.stack(alpha))


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
        every = F.cross_entropy(logits.flatten(0, 1), targets[t - 1 :].flatten(), reduction="sum") / targets.numel()
        last = F.cross_entropy(logits[-1], targets[-1])
        for name, loss in (("training", every), ("last_step", last)):
            (gradient,) = torch.autograd.grad(loss, h, retain_graph=True)
            ours = torch.tensor([line[t - 1] for line in lines[name]], dtype=torch.float64)
            assert torch.allclose(ours, gradient[0].norm(dim=-1), rtol=1e-5)


def test_traces_leave_the_model_and_the_random_numbers_alone():
    torch.manual_seed(0)
    model = LanguageModel(7, 5, quantizer="sbn", normalizer="batch_separate", max_steps=6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    lines = traces.gradient_norms(model, *torch.randint(7, (2, 6, 3), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(lines["training"]) == 1  # batch norm: the root mean square over the samples


def test_g_star_of_batch_norm_is_the_gain_of_the_largest_ratio():
    lstm = QuantLSTM(3, 4, normalizer="batch_separate", max_steps=2)
    norm = lstm.norm_hh_l0
    with torch.no_grad():
        norm.gain.fill_(0.5)
        norm.running_var.fill_(1.0)
        norm.gain[1, 2], norm.running_var[1, 1, 3] = -0.9, 0.01  # a large gain; a small variance at the second step
    found = traces.gains(lstm)
    assert found["g"] == [pytest.approx([0.5, 0.5, 0.5, 0.5])]
    assert found["sigma"][0][1] == pytest.approx(0.1, rel=1e-3)


def test_a_damaged_or_edited_record_is_refused_by_name(tmp_path):
    qlstm.run(TINY, tmp_path, report=quiet)
    path = tmp_path / "record.json"
    good = path.read_text()
    for bad in (good[: len(good) // 2], "[]", "{}", good.replace('"best_epoch": ', '"best_epoch": 1')):
        path.write_text(bad)
        with pytest.raises(RecordError, match=r"record\.json"):
            records.load(path)
    path.write_text(good)
    assert records.load(path)["metric"] == "bpc"


def test_comments_and_docstrings_do_not_change_the_codes_fingerprint(tmp_path, monkeypatch):
    package = tmp_path / "qlstm"
    (package / "recurrence").mkdir(parents=True)
    for name in records.TRAINING_MODULES:
        (package / f"{name}.py").write_text('"""Doc."""\n\n\ndef f():\n    """Doc."""\n    return 1\n')
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    before = records.training_code()
    (package / "cell.py").write_text('"""Other\n\nwords."""\n# a comment\ndef f():\n    return 1\n')
    assert records.training_code() == before
    (package / "cell.py").write_text("def f():\n    return 2\n")
    assert records.training_code() != before


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.write_atomically(path, b"whole")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write_atomically(path, b"torn")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_max_symbols_limits_all_three_parts():
    run = train._Run(dataclasses.replace(TINY, max_symbols=1600), None, "cpu", "auto", quiet)
    assert {name: len(part) for name, part in run.splits.items()} == {"train": 1600, "valid": 200, "test": 200}
    assert data.count_predicted(1600, 8) == 8 * 199
