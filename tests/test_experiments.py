import dataclasses
import re

import nbformat
import pytest

from qlstm import ConfigError, ExperimentConfig, data, grid
from qlstm.experiments import ARTEFACTS, PAPER_DATASETS, TABLE_ROWS
from qlstm.paths import ROOT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer": "binary_conect"}, "unknown quantizer 'binary_conect': did you mean 'binary_connect'?"),
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
    ],
)
def test_an_impossible_setting_is_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ExperimentConfig(**settings)
    assert "\n" not in str(error.value)


def test_what_is_left_out_comes_from_the_profile():
    config = ExperimentConfig(profile="paper", dataset="text8")
    assert (config.hidden_size, config.steps, config.batch_size, config.epochs) == (2000, 180, 128, 100)
    assert (config.learning_rate, config.lr_decay, config.clip_norm, config.max_symbols) == (0.001, 1.0, 5.0, 0)
    assert ExperimentConfig(profile="paper", dataset="penn_char", epochs=3).epochs == 3
    assert ExperimentConfig(**config.as_dict()) == config == dataclasses.replace(config)


def test_only_the_papers_own_settings_are_at_paper_scale():
    assert ExperimentConfig(profile="paper", dataset="penn_char", seed=7).at_paper_scale
    assert ExperimentConfig(
        profile="quick", dataset="penn_char", hidden_size=512, epochs=200, max_symbols=0
    ).at_paper_scale
    assert not ExperimentConfig(profile="paper", dataset="penn_char", epochs=199).at_paper_scale
    assert not ExperimentConfig(profile="quick", dataset="penn_char").at_paper_scale
    assert not ExperimentConfig(profile="paper", dataset="text8_prefix").at_paper_scale


def test_run_ids_tell_runs_apart(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 2000)
    base = ExperimentConfig(profile="paper", dataset="penn_char", quantizer="bwn", normalizer="layer")
    assert base.run_id == "penn_char-bwn-layer-seed0"
    others = [dataclasses.replace(base, seed=1), dataclasses.replace(base, epochs=10), dataclasses.replace(base, clip_norm=1),
              dataclasses.replace(base, dataset=str(tmp_path / "a.txt"))]  # fmt: skip
    assert len({base.run_id, *(config.run_id for config in others)}) == 5
    assert dataclasses.replace(base, epochs=10).run_id == "penn_char-bwn-layer-seed0-epochs=10"
    assert all("/" not in config.run_id for config in others)


def test_the_papers_grid():
    runs = grid("paper", only=["table_2"])
    assert len(TABLE_ROWS) == len(set(TABLE_ROWS)) == 38
    assert len(runs) == 3 * 38
    assert all(config.at_paper_scale for config in runs)
    assert len(grid("paper", datasets=["war_and_peace"], seeds=3)) == 3 * 38  # the figures' runs are among the table's
    assert {config.dataset for config in grid("paper")} == set(PAPER_DATASETS)


def test_selections_combine():
    runs = grid("paper", only=["table_2"], datasets=["war_and_peace"], seeds=2, epochs=10)
    assert len(runs) == 2 * 38
    assert {(config.epochs, config.dataset, config.at_paper_scale) for config in runs} == {(10, "war_and_peace", False)}
    assert grid("paper", only=["figure_06"], datasets=["penn_char"]) == []
    assert {config.dataset for config in grid("quick")} == {"python_help"}
    rows = {(config.quantizer, config.normalizer) for config in grid("quick", only=["table_2"])}
    needed = {(q, n) for q in ("full_precision", "binary_connect", "ter_connect")
              for n in ("none", "weight", "layer", "batch_shared", "batch_separate")}  # fmt: skip
    assert needed <= rows
    with pytest.raises(ConfigError, match="did you mean 'table_2'"):
        grid("quick", only=["table2"])


def test_every_figure_can_be_made_in_quick():
    for name, spec in ARTEFACTS.items():
        rows = {(config.quantizer, config.normalizer) for config in grid("quick", only=[name])}
        assert name == "table_2" or rows == set(spec["rows"])


def parameters_of(path):
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def test_the_run_notebooks_parameters_are_the_configurations_fields():
    source = parameters_of(ROOT / "notebooks" / "run" / "char_language_model.ipynb")
    namespace = {}
    exec(source, {}, namespace)
    assert set(namespace) == {field.name for field in dataclasses.fields(ExperimentConfig)} | {
        "directory",
        "device",
        "backend",
    }
    assert all("#" in line for line in source.splitlines())
    config = ExperimentConfig.from_parameters(namespace, "directory", "device", "backend")
    assert config == ExperimentConfig(quantizer="binary_connect", normalizer="layer")


def test_a_parameter_that_papermill_would_let_pass_is_an_error():
    with pytest.raises(ConfigError, match="unknown parameter 'quantiser': did you mean 'quantizer'"):
        ExperimentConfig.from_parameters({"quantizer": "bwn", "quantiser": "twn"})
    assert ExperimentConfig.from_parameters({"seed": 3, "In": ["x"], "_": 1, "record": {}, "data": data}).seed == 3
