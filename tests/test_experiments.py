import dataclasses
import enum
import json
import os
import re
import sys
import types

import nbformat
import numpy as np
import pytest
import torch

import qlstm
from qlstm import ConfigError, DataError, ExperimentConfig, data, grid
from qlstm.data.storage import ROOT
from qlstm.report import experiment
from qlstm.report.frames import published
from qlstm.report.tables import label
from qlstm.study import grid as study_grid
from qlstm.study import record_schema
from qlstm.study.grid import ARTEFACTS, FROM_ALL, TABLE_ROWS, most_wanted, no_runs
from qlstm.study.profiles import PAPER_DATASETS, VARIANTS
from qlstm.study.run_data import RunData
from qlstm.study.tasks import PROFILES, TASKS
from qlstm.study.training import learning_rate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer": "binary_conect"},
         "unknown quantizer 'binary_conect': did you mean 'binary_connect'?"),
        ({"normalizer": "bach_shared"}, "did you mean 'batch_shared'?"),
        ({"profile": "quik"}, "did you mean 'quick'?"),
        ({"dataset": "war_and_piece"}, "did you mean 'war_and_peace'?"),
        ({"task": "char"}, "Possible: char_lm"),
        ({"quantiser": "bwn"}, "unknown setting 'quantiser': did you mean 'quantizer'?"),
        ({"hidden_size": 0}, "hidden_size must be a whole number of 1 or more, got 0"),
        ({"hidden_size": 12.5}, "hidden_size must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
        ({"learning_rate": "1e-3"}, "got the text '1e-3'"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be"),
        ({"clip_norm": float("inf")}, "clip_norm must be"),
        ({"quantizer": "sbn", "normalizer": "layer"}, "'batch_separate' only"),
        ({"normalizer": "batch_shared", "batch_size": 1}, "batch_size 2 or more"),
        ({"quantizer": "no.such.module:f"}, "cannot import the quantizer"),
        ({"max_symbols": 10}, "unknown setting 'max_symbols'"),
        ({"max_train": -1}, "max_train must be a whole number of 0 or more"),
        ({"cell": "gro"}, "did you mean 'gru'?"),
        ({"dropout": 0.5}, "dropout is a setting of task 'word_lm', not of 'char_lm'"),
        ({"dropout": 0.5, "task": "sequential_image"}, "dropout is a setting of task 'word_lm'"),
        ({"dropout": 1, "task": "word_lm"}, "dropout must be a probability below 1"),
        ({"dropout": -0.1, "task": "word_lm"}, "dropout must be a number of 0"),
        ({"initial_gain": 0.1}, "initial_gain is a setting of task 'sequential_image'"),
        ({"state_noise": 0.1, "task": "word_lm"},
         "state_noise is a setting of task 'sequential_image'"),
        ({"permuted": True, "dataset": "penn_char"},
         "permuted is a setting of task 'sequential_image', not of 'char_lm'"),
        ({"permuted": 1, "dataset": "digits"}, "permuted must be True or False"),
        ({"dataset": "mnist", "steps": 100}, 
         "steps of mnist are its 784 pixels, or those of the image made smaller (196, 49, 16, 4, "
         "1), got 100"),
        ({"dataset": "digits", "steps": 784}, "steps of digits are its 64 pixels, or those"),
        ({"dataset": "penn_word", "task": "char_lm"},
         "data set penn_word is for task 'word_lm', not 'char_lm'"),
        ({"dataset": "mnist", "task": "word_lm"}, "is for task 'sequential_image'"),
        ({"cell": "gru", "quantizer": "sbn", "normalizer": "batch_separate"}, "defined for LSTMs"),
        ({"clip_norm": -1}, "clip_norm must be a number of 0"),
        ({"min_learning_rate": -1}, "min_learning_rate must be a number of 0"),
        ({"decay": "latend"}, "unknown decay 'latend': did you mean 'latent'?"),
        ({"biases": 3}, "biases must be 1 or 2, got 3"),
        ({"biases": True}, "biases must be a whole number"),
        ({"biases": 2, "normalizer": "layer"},
         "two biases are for full-precision LSTMs without normalization only"),
        ({"biases": 2, "quantizer": "bwn"}, "two biases are for"),
        ({"biases": 2, "cell": "gru"}, "two biases are for"),
        ({"biases": 2, "dataset": "digits"}, "biases and carry_state are settings of texts"),
        ({"carry_state": False, "dataset": "digits"},
         "biases and carry_state are settings of texts"),
        ({"carry_state": 0}, "carry_state must be True or False"),
    ],
)
def test_an_impossible_setting_is_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ExperimentConfig(**settings)
    assert "\n" not in str(error.value)


class Name(enum.Enum):
    TWN = "twn"


class Shouted(str):
    def __str__(self):
        return self.upper()


@pytest.mark.parametrize(("given", "kept"), [
    ({"seed": np.int64(3), "learning_rate": np.float32(0.5)}, {"seed": 3, "learning_rate": 0.5}),
    ({"dataset": "digits", "permuted": np.bool_(True)}, {"permuted": True}),
    ({"hidden_size": torch.tensor(7), "clip_norm": torch.tensor(2.0)},
     {"hidden_size": 7, "clip_norm": 2.0}),
    ({"quantizer": Shouted("bwn"), "normalizer": np.str_("layer")},
     {"quantizer": "bwn", "normalizer": "layer"}),
    ({"quantizer": Name.TWN, "epochs": np.array(2)}, {"quantizer": "twn", "epochs": 2}),
], ids=range(5))
def test_settings_of_other_types_become_plain(given, kept):
    settings = ExperimentConfig(**given).as_dict()
    assert {name: (type(settings[name]), settings[name]) for name in kept} == {
        name: (type(value), value) for name, value in kept.items()}
    assert not record_schema.CONFIG(settings)
    assert json.loads(json.dumps(settings)) == settings


def test_a_path_is_a_data_set_also_among_a_notebooks_parameters(tmp_path):
    (tmp_path / "my.txt").write_text("Some text of my own. " * 100)
    config = ExperimentConfig.from_parameters({"dataset": tmp_path / "my.txt", "pathlib": tmp_path})
    assert config.dataset == str(tmp_path / "my.txt")
    json.dumps(config.as_dict())


@pytest.mark.parametrize(("name", "value"), [
    ("seed", 2**70), ("seed", 10**5000), ("seed", -1), ("hidden_size", 2**63), ("epochs", 3.0),
    ("seed", np.array([1, 2])), ("hidden_size", torch.ones(1)), ("learning_rate", 1j),
    ("dataset", "/dev/zero"), ("dataset", "/tmp"), ("dataset", ""), ("dataset", b"my.txt"),
    ("dataset", []), ("dataset", "my\0.txt"), ("dataset", "\udce9.txt"), ("normalizer", 5),
    ("normalizer", None), ("normalizer", "os:nothing"), ("quantizer", None), ("quantizer", len),
    ("quantizer", "os:name"), ("quantizer", "a\nb"), ("profile", []), ("profile", None),
    ("task", {}), ("cell", 3), ("decay", 1.0), ("permuted", "no")],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "")
def test_what_cannot_be_a_setting_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigError, match=f"{name}.*(must be|module 'os' has no)") as error:
        ExperimentConfig(**{name: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_pipe_is_no_data_set(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"dataset must be .* or a text file, and .*pipe is no"):
        ExperimentConfig(dataset=tmp_path / "pipe")


@pytest.mark.parametrize(("name", "value"), [("bits", "two"), ("bits", 0), ("scales", "column")])
def test_attributes_of_ones_own_quantizer_are_checked_before_training(monkeypatch, name, value):
    def mine(weight):
        return weight

    module = types.ModuleType("of_mine")
    module.mine = mine
    setattr(mine, name, value)
    monkeypatch.setitem(sys.modules, "of_mine", module)
    with pytest.raises(ConfigError, match=f"the attribute {name} of of_mine:mine must be"):
        ExperimentConfig(quantizer="of_mine:mine")


def test_a_module_of_ones_own_that_fails_is_named(monkeypatch, tmp_path):
    (tmp_path / "of_mine_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot import the quantizer 'of_mine_broken:f': div"):
        ExperimentConfig(quantizer="of_mine_broken:f")


@pytest.mark.parametrize("quantizer", ["sbn", "stn"])
def test_stochastic_quantizers_follow_their_own_release(quantizer):
    def own(dataset):
        config = ExperimentConfig(
            profile="paper", dataset=dataset, quantizer=quantizer, normalizer="batch_separate")
        assert config.at_paper_scale
        return config

    for dataset in ("war_and_peace", "penn_char", "text8"):
        assert (own(dataset).clip_norm, own(dataset).carry_state) == (0.0, False)
        rates = [learning_rate(own(dataset), epoch, []) for epoch in (1, 200)]
        assert rates[1] / rates[0] == pytest.approx(
            0.5 if dataset == "war_and_peace" else 1, rel=0.05)
    assert (own("penn_word").clip_norm, own("penn_word").carry_state) == (0.25, True)
    images = own("mnist")
    assert (images.clip_norm, images.learning_rate, images.lr_decay) == (0.0, 0.004, 0.25)
    assert (images.initial_gain, images.state_noise) == (0.1, 0.1)


def test_settings_of_the_release_are_experiments_of_their_own():
    plain = ExperimentConfig(profile="paper", dataset="penn_word")
    panel = ARTEFACTS["table_3"][0]
    assert (plain.decay, plain.biases, plain.min_learning_rate) == ("all", 1, 0.001)
    assert plain.at_paper_scale
    assert panel.suits(plain)
    texts = set()
    for settings in (dict(decay="latent"), dict(biases=2), dict(min_learning_rate=0.0)):
        other = dataclasses.replace(plain, **settings)
        ((name, value),) = settings.items()
        assert other.run_id == f"{plain.run_id}-{name}={value}"
        assert not panel.suits(other)
        texts.add(label(other, ""))
    assert texts == {f"Penn Treebank (words), d = 300, {what}"
                     for what in ("decay of latent weights", "2 biases", "least rate 0")}


def test_what_is_left_out_comes_from_the_profile():
    config = ExperimentConfig(profile="paper", dataset="text8")
    assert (config.hidden_size, config.steps, config.batch_size, config.epochs) == (
        2000, 180, 128, 100)
    assert (config.learning_rate, config.lr_decay, config.clip_norm, config.max_train) == (
        0.001, 1.0, 5.0, 0)
    assert ExperimentConfig(profile="paper", dataset="penn_char", epochs=3).epochs == 3
    assert ExperimentConfig(**config.as_dict()) == config == dataclasses.replace(config)


def test_only_the_papers_own_settings_are_at_paper_scale():
    assert ExperimentConfig(profile="paper", dataset="penn_char", seed=7).at_paper_scale
    assert ExperimentConfig(
        profile="quick", dataset="penn_char", hidden_size=512, steps=100, batch_size=64, epochs=200,
        max_train=0).at_paper_scale
    assert not ExperimentConfig(profile="paper", dataset="penn_char", epochs=199).at_paper_scale
    assert not ExperimentConfig(profile="quick", dataset="penn_char").at_paper_scale
    assert not ExperimentConfig(profile="paper", dataset="text8_prefix").at_paper_scale


def test_run_ids_tell_runs_apart(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 2000)
    base = ExperimentConfig(
        profile="paper", dataset="penn_char", quantizer="bwn", normalizer="layer")
    assert base.run_id == "penn_char-bwn-layer-seed0"
    others = [dataclasses.replace(base, seed=1), dataclasses.replace(base, epochs=10),
              dataclasses.replace(base, clip_norm=1),
              dataclasses.replace(base, dataset=str(tmp_path / "a.txt"))]
    assert len({base.run_id, *(config.run_id for config in others)}) == 5
    assert dataclasses.replace(base, epochs=10).run_id == "penn_char-bwn-layer-seed0-epochs=10"
    assert all("/" not in config.run_id for config in others)


def test_the_papers_grid():
    runs = grid("paper", only=["table_2"])
    assert len(TABLE_ROWS) == len(set(TABLE_ROWS)) == 38
    assert len(runs) == 3 * 38
    assert all(config.at_paper_scale for config in runs)
    assert (
        len(grid("paper", datasets=["war_and_peace"], seeds=3)) == 3 * 38
    )  # the figures' runs are among the table's
    assert {config.dataset for config in grid("paper")} == set(PAPER_DATASETS)


def test_selections_combine():
    runs = grid("paper", only=["table_2"], datasets=["war_and_peace"], seeds=2, epochs=10)
    assert len(runs) == 2 * 38
    assert {(config.epochs, config.dataset, config.at_paper_scale) for config in runs} == {
        (10, "war_and_peace", False)}
    assert grid("paper", only=["figure_06"], datasets=["penn_char"]) == []
    assert ({config.dataset for config in grid("quick")}
            == {task.stand_in for task in TASKS.values()})
    rows = {(config.quantizer, config.normalizer) for config in grid("quick", only=["table_2"])}
    needed = {(q, n) for q in ("binary_connect", "ter_connect")
              for n in ("none", "weight", "layer")}
    assert needed | {("full_precision", "none"), ("binary_connect", "batch_shared")} <= rows
    for name in FROM_ALL:
        assert grid("quick", only=[name]) == []
    with pytest.raises(ConfigError, match="did you mean 'table_2'"):
        grid("quick", only=["table2"])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_once_and_under_a_name_of_its_own(profile):
    runs = grid(profile)
    assert len({config.run_id for config in runs}) == len(runs) == len(set(runs))
    asked = {config for name in ARTEFACTS for config in grid(profile, only=[name])}
    assert asked == set(runs)
    assert [len(grid(profile, seeds=seeds)) for seeds in (2, 3)] == [2 * len(runs), 3 * len(runs)]
    left_out = [name for name in ARTEFACTS if not grid(profile, only=[name])]
    assert left_out == (["table_5", "figure_10", "figure_11", "statistics", "diagnoses"]
                        if profile == "quick" else [])
    if left_out:
        said = no_runs(profile, ["table_2", *left_out])
        assert said.endswith(f"{', '.join(left_out)}; try PROFILE=smoke or PROFILE=paper")


def test_a_selection_without_runs_names_only_profiles_that_have_some(monkeypatch):
    smoke = study_grid.REDUCED_ROWS["smoke"] | {"deep": []}
    monkeypatch.setitem(study_grid.REDUCED_ROWS, "smoke", smoke)
    assert no_runs("quick", ["table_5"]).endswith("; try PROFILE=paper")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_most_wanted_runs_are_runs_of_the_grid(profile):
    wanted = most_wanted(profile)
    assert len({config.run_id for config in wanted}) == len(wanted)
    assert set(wanted) <= set(grid(profile, seeds=3))
    assert wanted[0] == grid(profile, only=["table_3"])[0]
    assert {config.task for config in wanted} == set(TASKS)


def test_the_most_wanted_come_in_order_and_those_that_the_authors_published_first():
    printed = published().query("dataset == 'penn_word' and layers == 1")

    def rows(configs):
        return {(config.quantizer, config.normalizer) for config in configs}

    wanted, parts = iter(most_wanted()), []
    for size in (14, 4, 1, 12, 13, 25, 25, 38, 18, 18):
        parts.append([next(wanted) for _ in range(size)])
    assert list(wanted) == []
    assert [{(c.dataset, c.hidden_size, c.num_layers, c.seed) for c in part} for part in parts] == [
        *[{("penn_word", 300, 1, 0)}] * 3, {("war_and_peace", 512, 1, 0)},
        {("penn_word", 650, 1, 0)}, {("penn_word", 650, 1, 0)}, {("penn_word", 650, 2, 0)},
        {("mnist", 100, 1, 0)}, {("penn_word", 300, 1, 1)}, {("penn_word", 300, 1, 2)}]
    for part, hidden in ((parts[0], 300), (parts[4], 650)):
        row = printed[printed["hidden"] == hidden]
        assert rows(part) == set(zip(row["quantizer"], row["normalizer"], strict=True))
    assert rows(parts[1]) == {("full_precision", normalizer) for normalizer in (
        "weight", "layer", "batch_shared", "batch_separate")}
    assert [config.run_id for config in parts[2]] == [
        "penn_word-full_precision-none-seed0-biases=2"]
    assert [config.run_id for config in parts[3]] == [
        f"war_and_peace-{quantizer}-{normalizer}-seed0"
        for quantizer in ("full_precision", "binary_connect", "ter_connect")
        for normalizer in ("none", "weight", "layer", "batch_shared")]
    assert {config.dataset for config in most_wanted(datasets=["mnist", "text8"])} == {"mnist"}
    assert {config.epochs for config in most_wanted("smoke", epochs=7)} == {7}
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        most_wanted("papre")
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        most_wanted(datasets=["minst"])


def configs_of(panel, profile, dataset):
    """Of every row of a panel."""
    for quantizer, normalizer in panel.rows:
        yield ExperimentConfig(profile=profile, dataset=dataset, quantizer=quantizer,
                               normalizer=normalizer, **panel.overrides(profile))


PANELS = [(name, panel) for name, panels in ARTEFACTS.items() for panel in panels]


@pytest.mark.parametrize("profile", PROFILES)
def test_panels_suit_their_own_runs_and_no_others(profile):
    for name, panel in PANELS:
        for dataset in {panel.dataset,
                        panel.dataset if profile == "paper" else TASKS[panel.task].stand_in}:
            for config in configs_of(panel, profile, dataset):
                assert panel.suits(config), (name, config)
                for other in ARTEFACTS[name]:
                    own = (other.variant, other.settings) == (panel.variant, panel.settings)
                    same_text = dataset not in PAPER_DATASETS or other.dataset == dataset
                    if other.task == panel.task:
                        assert other.suits(config) == (own and same_text), (name, other, config)
                if name == "gru":
                    assert not any(p.suits(config) for n, p in PANELS if n != "gru")
    for config in grid(profile):
        assert any(panel.suits(config) and (config.quantizer, config.normalizer) in panel.rows
                   for _, panel in PANELS)


def test_a_panel_does_not_suit_other_settings():
    (table_4,) = ARTEFACTS["table_4"]
    base = ExperimentConfig(dataset="digits", normalizer="layer")
    assert table_4.suits(base)
    assert table_4.suits(dataclasses.replace(base, epochs=1, seed=3))
    for changes in (dict(permuted=True), dict(initial_gain=0.5), dict(state_noise=0.0),
                    dict(cell="gru")):
        assert not table_4.suits(dataclasses.replace(base, **changes)), changes
    assert not table_4.suits(ExperimentConfig(dataset="penn_char"))


def test_the_settings_of_words_and_images():
    words = ExperimentConfig(profile="paper", dataset="penn_word")
    assert (words.task, words.hidden_size, words.num_layers, words.steps, words.batch_size) == (
        "word_lm", 300, 1, 35, 20)
    assert (words.learning_rate, words.lr_decay, words.clip_norm, words.dropout) == (
        20.0, 0.25, 0.25, 0.5)
    assert (words.epochs, words.max_train) == (120, 0)
    images = ExperimentConfig(profile="paper", dataset="mnist")
    assert (images.task, images.hidden_size, images.steps, images.batch_size) == (
        "sequential_image", 100, 784, 100)
    assert (images.learning_rate, images.lr_decay, images.clip_norm, images.epochs) == (
        0.002, 0.5, 1.0, 200)
    gains = {
        normalizer: (config.initial_gain, config.state_noise)
        for normalizer in ("none", "weight", "layer", "batch_shared", "batch_separate")
        for config in [ExperimentConfig(profile="paper", dataset="mnist", normalizer=normalizer)]}
    assert gains == {"none": (0.0, 0.0), "weight": (0.0, 0.0), "layer": (0.1, 0.1),
                     "batch_shared": (0.0, 0.1), "batch_separate": (0.1, 0.1)}
    assert ExperimentConfig(task="word_lm").dataset == "python_help_words"
    assert ExperimentConfig(task="sequential_image").steps == 64


def test_the_papers_word_models_are_at_paper_scale_and_others_not(tmp_path):
    paper = [dict(), dict(hidden_size=650), dict(hidden_size=650, num_layers=2)]
    (tmp_path / "a.txt").write_text("a b " * 600)
    for sizes, variant in zip(paper, VARIANTS, strict=True):
        base = ExperimentConfig(
            profile="paper", dataset="penn_word", quantizer="twn", normalizer="layer", **sizes)
        assert base.at_paper_scale
        assert base.variant == variant
        assert dataclasses.replace(base, seed=9, quantizer="bwn").at_paper_scale
        asked = base.as_dict() | {"profile": "quick"}
        assert ExperimentConfig(
            **asked
        ).at_paper_scale  # the settings count, not the profile's name
        assert ExperimentConfig(**asked).variant == variant
        for changes in (dict(dataset="python_help_words"), dict(dataset=str(tmp_path / "a.txt")),
                        dict(cell="gru"), dict(hidden_size=base.hidden_size + 1),
                        dict(num_layers=3), dict(steps=34), dict(batch_size=21), dict(epochs=119),
                        dict(max_train=10**7), dict(learning_rate=10), dict(lr_decay=0.5),
                        dict(clip_norm=1), dict(dropout=0.0)):
            assert not dataclasses.replace(base, **changes).at_paper_scale, changes
    assert not ExperimentConfig(profile="paper", dataset="penn_word", num_layers=2).at_paper_scale
    mnist = ExperimentConfig(profile="paper", dataset="mnist", normalizer="layer")
    assert mnist.at_paper_scale
    for changes in (dict(permuted=True), dict(initial_gain=0.0), dict(state_noise=0.0),
                    dict(cell="gru")):
        assert not dataclasses.replace(mnist, **changes).at_paper_scale, changes
    assert not ExperimentConfig(profile="paper", dataset="digits").at_paper_scale


def test_data_sets_that_are_given_stand_in_for_those_of_their_task(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("some text " * 300)
    for profile in ("quick", "paper"):
        for config in grid(profile, datasets=["digits", "python_help_words", str(own)]):
            assert config.task == {"digits": "sequential_image",
                                   "python_help_words": "word_lm"}.get(config.dataset, "char_lm")
    assert {config.dataset for config in grid("paper", datasets=["digits"])} == {"digits"}
    assert grid("quick", only=["table_4"], datasets=["penn_char"]) == []
    assert len(grid("paper", only=["table_4"], datasets=["digits"])) == 38
    assert grid("paper", only=["table_2"], datasets=["penn_word"]) == []
    assert {
        config.dataset for config in grid("paper", only=["table_2"], datasets=["text8", "mnist"])
    } == {"text8"}
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        grid("paper", datasets=["minst"])


def test_run_ids_tell_tasks_and_settings_apart(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a b " * 600)
    characters, words = (
        ExperimentConfig(dataset=str(path), task=task) for task in ("char_lm", "word_lm"))
    images = ExperimentConfig(dataset="digits", normalizer="batch_shared")
    configs = [
        characters,
        words,
        dataclasses.replace(words, num_layers=2),
        dataclasses.replace(words, dropout=0.0),
        images,
        dataclasses.replace(words, cell="gru"),
        *(
            dataclasses.replace(images, **{name: value})
            for name, value in [("permuted", True), ("initial_gain", 0.1), ("state_noise", 0.0),
                                ("cell", "gru"), ("hidden_size", 9)]
        ),
    ]
    assert len({config.run_id for config in configs}) == len(configs)
    assert (dataclasses.replace(images, permuted=True).run_id
            == "digits-full_precision-batch_shared-seed0-permuted=True")


def parameters_of(path):
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def test_the_run_notebooks_parameters_are_the_configurations_fields():
    source = parameters_of(ROOT / "notebooks" / "run" / "experiment.ipynb")
    namespace = {}
    exec(source, {}, namespace)
    others = ["directory", "device", "backend", "train"]
    assert (
        list(namespace) == [field.name for field in dataclasses.fields(ExperimentConfig)] + others)
    assert all("#" in line for line in source.splitlines())
    config = ExperimentConfig.from_parameters(namespace, *others)
    assert config == ExperimentConfig(quantizer="binary_connect", normalizer="layer")


def test_a_parameter_that_papermill_would_let_pass_is_an_error():
    with pytest.raises(
            ConfigError, match="unknown parameter 'quantiser': did you mean 'quantizer'"):
        ExperimentConfig.from_parameters({"quantizer": "bwn", "quantiser": "twn"})
    assert (
        ExperimentConfig.from_parameters(
            {"seed": 3, "In": ["x"], "_": 1, "record": {}, "data": data}).seed
        == 3
    )


def test_a_run_can_read_images_at_half_their_width_and_height():
    config = ExperimentConfig(profile="smoke", dataset="digits", steps=16)
    part = RunData(config, torch.device("cpu")).splits["train"]
    assert part[0].shape == (200, 16)
    assert not config.at_paper_scale
    assert "T = 16" in label(config, "")


def test_a_run_on_smaller_images_shows_what_it_reads(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(experiment, "display", shown.append)
    config = ExperimentConfig(profile="smoke", dataset="digits", steps=16, hidden_size=8, epochs=1)
    qlstm.run(config, tmp_path, report=lambda line: None)
    experiment.show_data(config)
    experiment.show_answers(tmp_path)
    first, _ = data.smaller(data.load_dataset("digits").test, 16)
    for figure in shown:
        image = figure.axes[0].get_images()[0].get_array()
        assert (image == first[0].view(4, 4).numpy()).all()
    _, pixels, chances = shown[1].axes[:3]
    assert len(pixels.get_lines()[0].get_xdata()) == 16
    assert len(chances.get_lines()[0].get_xdata()) == 16
