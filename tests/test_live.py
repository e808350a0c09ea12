"""A run while it is trained: its picture in a notebook, its file and its lines, and that none of
them changes a number."""

import dataclasses
import json
import types

import nbformat
import pytest

import qlstm
from qlstm import ExperimentConfig
from qlstm.report import live
from qlstm.study import locks, records, training, underway
from qlstm.workflow import notebooks, progress

CONFIG = ExperimentConfig(profile="smoke", hidden_size=8, steps=10, batch_size=8, epochs=3,
                          max_train=1600, quantizer="binary_connect", normalizer="batch_shared")
CELL = """
import qlstm
from qlstm.report import live
from qlstm.study import underway

live.EVERY, live.SHARE, underway.WATCH = 0, 1e9, 0
config = qlstm.ExperimentConfig(
    profile="smoke", hidden_size=8, steps=10, batch_size=8, epochs=3, max_train=400)
curve = live.Curve(config)
show, drawn = curve.show, []
curve.show = lambda *state: (drawn.append(state), show(*state))
print("before")
record = qlstm.run(config, watch=curve)
print(f"{len(drawn)} pictures")
"""


def quiet(_):
    pass


def comparable(record):
    return {key: value for key, value in record.items() if key not in records.VARYING}


@pytest.fixture
def pictures(monkeypatch):
    """The pictures that are shown in place of one another, as in a notebook, without delay."""
    shown = []
    handle = types.SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))
    monkeypatch.setattr(live, "get_ipython", object)
    monkeypatch.setattr(live, "display", lambda bundle, **_: handle)
    monkeypatch.setattr(live, "EVERY", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    monkeypatch.setattr(underway, "WATCH", 0.0)
    return shown


def test_a_notebook_has_one_picture_the_last(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out.ipynb")
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    picture, text = executed.cells[0].outputs  # one picture, one stream
    assert picture.output_type == "display_data"
    assert picture.data["text/plain"].startswith("epoch 3 of 3: training loss")
    assert len(picture.data["image/png"]) > 10_000
    assert text.text.startswith("before\n")
    assert int(text.text.split()[-2]) > 10
    assert "epoch 1/" not in text.text  # the picture takes the place of these lines
    assert "widgets" not in executed.metadata


@pytest.mark.parametrize("more", [{}, dict(task="word_lm", normalizer="none", quantizer="lab"),
                                  dict(task="sequential_image", max_train=64)], ids=str)
def test_a_watched_run_has_the_record_of_one_that_nobody_watches(tmp_path, pictures, more):
    task = {"task": "char_lm", "dataset": None, "steps": None, "max_train": 480} | more
    config = dataclasses.replace(CONFIG, **task)
    plain = qlstm.run(config, tmp_path / "plain", report=quiet)
    watched = qlstm.run(config, tmp_path / "watched", report=quiet, watch=live.Curve(config))
    assert len(pictures) > config.epochs
    assert any("so far" in picture["text/plain"] for picture in pictures)
    assert comparable(watched) == comparable(plain)
    weights = [(tmp_path / name / "model.safetensors").read_bytes()
               for name in ("plain", "watched")]
    assert weights[0] == weights[1]


def test_pictures_take_a_small_share_of_the_time(pictures, monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(live, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(live, "EVERY", 2.0)
    monkeypatch.setattr(live, "SHARE", 0.04)
    draw, drawing = live._bundle, 0.01

    def slow(*state):
        clock.now += drawing
        return draw(*state)

    monkeypatch.setattr(live, "_bundle", slow)
    curve = live.Curve(CONFIG)
    curve([], {})
    for seconds, count in ((1.9, 1), (0.2, 2)):
        clock.now += seconds
        curve([], {})
        assert len(pictures) == count
    drawing = 1.0  # a slow machine
    clock.now += 2.1
    for seconds, count in ((0, 3), (24.9, 3), (0.2, 4)):
        clock.now += seconds
        curve([], {})
        assert len(pictures) == count


def test_a_loss_without_bounds_can_be_drawn():
    epochs = [{"epoch": 0},
              {"epoch": 1, "train_loss": 5.0, "valid_loss": 5.0, "valid_metric": 150.0},
              {"epoch": 2, "train_loss": 1e305, "valid_loss": 1e306, "valid_metric": 1e304},
              {"epoch": 3, "diverged": True}]
    bundle = live._bundle(dataclasses.replace(CONFIG, task="word_lm", dataset=None), epochs, {})
    assert bundle["text/plain"] == "epoch 3 of 3: the loss is not finite, diverged"


def test_a_long_epoch_tells_how_far_it_has_come(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "SAY", 0.0)
    monkeypatch.setattr(underway, "WRITE", 0.0)
    lines, states = [], []

    def report(line):
        lines.append(line)
        states.append(underway.read(tmp_path))

    qlstm.run(CONFIG, tmp_path, report=report)
    within = [k for k, line in enumerate(lines) if "updates" in line]
    assert lines[within[0]].startswith("epoch 1/3, 5 %: 1 updates, loss ")
    assert len(within) == 3 * 20
    shares = [state["share"] for state in states if state.get("epoch") == 2]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert states[within[19] + 1] == {}  # between two epochs
    assert not (tmp_path / underway.FILE).exists()


def test_what_is_told_of_an_epoch_ends_with_it_however_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "WRITE", 0.0)
    plain = training.update

    def failing(*arguments, **settings):
        if underway.read(tmp_path).get("updates") == 3:
            raise KeyboardInterrupt
        return plain(*arguments, **settings)

    monkeypatch.setattr(training, "update", failing)
    with pytest.raises(KeyboardInterrupt):
        qlstm.run(CONFIG, tmp_path, report=quiet)
    assert underway.read(tmp_path) == {}


def test_what_a_killed_run_left_is_not_told_of_the_next_epoch(tmp_path):
    (tmp_path / underway.FILE).write_text('{"epoch": 1, "share": 0.9}')
    with underway.Underway(3, 100, tmp_path, quiet).epoch([{"epoch": 0}]):
        assert underway.read(tmp_path) == {}


def test_status_and_the_line_tell_how_far_an_epoch_has_come(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(underway, "WRITE", 0.0)
    run = "python_help-mine"
    folder, lines = tmp_path / "runs" / run, []
    folder.mkdir(parents=True)
    plan = {"selected": [run], "runs": {run: dataclasses.asdict(CONFIG)}, "metrics": {}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    line = types.SimpleNamespace(show=lambda text, news: lines.append(text))
    shown = progress.Progress(tmp_path, plan, line)
    plain = training.update

    def watched(*arguments, **settings):
        if underway.read(folder).get("updates") == 8:
            shown.show()
            progress.status(tmp_path)
        return plain(*arguments, **settings)

    monkeypatch.setattr(training, "update", watched)
    qlstm.run(CONFIG, folder, report=quiet)
    told = [text for text in capsys.readouterr().out.splitlines() if run in text]
    for epoch, text, status in zip((1, 2, 3), lines, told, strict=True):
        assert f" {epoch}/3, 40 %" in text
        assert f"  {run}: epoch {epoch}/3, 40 %" in status
    assert "validation" in told[1]
    (folder / "record.json").unlink()
    (folder / underway.FILE).write_text('{"epoch": 2, "share": 0.9}')  # an old one, of a kill
    with locks.exclusive(folder):
        assert "share" not in progress.state(folder)[1]
    assert progress.state(folder)[0] == "waiting"

def test_a_full_disk_does_not_end_an_epoch_that_only_tells_of_itself(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError("no space left on device")

    monkeypatch.setattr(underway, "WRITE", 0.0)
    monkeypatch.setattr(underway, "write_atomically", full)
    assert len(qlstm.run(CONFIG, tmp_path, report=quiet)["epochs"]) == 4
