"""Rows that miss the paper: what comes out where one thing is done differently.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qlstm.report import verdicts
from qlstm.report.frames import as_frame, frame
from qlstm.report.names import NORMALIZER_WORDS, NOT_RUN, QUANTIZER_TITLES, number
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import DIAGNOSES
from qlstm.study.run_data import EVALUATION_STREAMS
from qlstm.study.tasks import METRICS

DIVIDED = "loss divided by one symbol more a stream"
VARIED = {"biases": "two biases, as torch.nn.LSTM has", "decay": "a rate that never falls",
          "min_learning_rate": "all 120 epochs"}
"""What is done differently in the runs of :data:`qlstm.study.grid.DIAGNOSES`, by the setting."""


@dataclass
class Diagnosis:
    """A row that misses the paper, with one thing done differently.

    Attributes:
        label: the setting's name.
        varied: what differs from the paper's settings; "": nothing.
        ours: mean test metric over seeds; NaN: not run.
        seeds: how many there are.
        paper: the printed number.
    """

    label: str
    quantizer: str
    normalizer: str
    metric: str
    varied: str
    ours: float
    seeds: int
    paper: float


def diagnoses(records: list[dict], table: pd.DataFrame) -> pd.DataFrame:
    """What was varied, one thing at a time, where a row of a table misses the paper.

    Of a text there is always the way in which the authors' release counts: it divides the sum of
    losses by one symbol more a stream than it predicts. The others are runs of
    :data:`qlstm.study.grid.DIAGNOSES`.

    Args:
        records: those of a profile.
        table: the long form, as :func:`qlstm.report.tables.results` returns it.

    Returns:
        A :class:`Diagnosis` for each row that is outside the margin, as it is and varied.
    """
    runs, rows = frame(records), []
    symbols = {record["run_id"]: record["data"]["sizes"]["test"] for record in records}
    for row in table.itertuples():
        if not row.paper_scale or row.verdict not in verdicts.MISSED:
            continue
        own = runs[(runs["label"] == row.label) & (runs["quantizer"] == row.quantizer)
                   & (runs["normalizer"] == row.normalizer)]
        tests = {"": own["test"].astype(float)}
        if row.metric != "accuracy":
            tests[DIVIDED] = pd.Series([divided(run.metric, run.test, symbols[run.run_id])
                                        for run in own.itertuples()])
        tests |= _experiments(runs, own["config"].iloc[0])
        rows += [Diagnosis(row.label, row.quantizer, row.normalizer, row.metric, varied,
                           values.mean(), len(values), row.paper)
                 for varied, values in tests.items()]
    return as_frame(Diagnosis, rows)


def _experiments(runs: pd.DataFrame, usual: ExperimentConfig) -> dict[str, pd.Series]:
    """Test metrics of the runs that differ in one thing from the ``usual`` one, whatever their
    seed, by what differs."""
    tests = {}
    for panel in DIAGNOSES:
        if panel.dataset == usual.dataset and (usual.quantizer, usual.normalizer) in panel.rows:
            wanted = usual.as_dict() | panel.settings
            same = [config.as_dict() == wanted | {"seed": config.seed} for config in runs["config"]]
            varied = ", ".join(VARIED[name] for name in panel.settings)
            tests[varied] = runs["test"][np.array(same, dtype=bool)].astype(float)
    return tests


def divided(metric: str, value: float, symbols: int) -> float:
    """A test metric as the release would print it.

    It reads the text in 64 streams and divides the sum of losses by one symbol more of each than it
    predicts, which flatters.

    Args:
        metric: ``bpc`` or ``ppl``.
        value: the metric.
        symbols: of the test part.

    Example:
        >>> round(divided("ppl", 89.96, 82_430), 2)
        89.65
    """
    read = symbols // max(1, min(EVALUATION_STREAMS, symbols // 2))  # of each stream
    share = (read - 1) / read
    return math.exp(share * math.log(value)) if metric == "ppl" else share * value


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Diagnoses as people read them, indexed by what they stand under.

    Args:
        table: of :func:`diagnoses`.
    """
    margins = [(row.ours / row.paper - 1 if row.metric == "ppl" else row.ours - row.paper)
               for row in table.itertuples()]
    titles = [METRICS[metric].title for metric in table["metric"]]
    return pd.DataFrame({
        "quantization": table["quantizer"].replace(QUANTIZER_TITLES),
        "normalization": table["normalizer"].replace(NORMALIZER_WORDS),
        "what differs": table["varied"].replace("", "nothing"),
        f"our {titles[0] if titles else ''}": [
            number(row.metric, row.ours) if row.seeds else NOT_RUN for row in table.itertuples()],
        "from the paper's": [
            NOT_RUN if math.isnan(margin) else f"{100 * margin:+.1f} %" if metric == "ppl" else
            f"{margin:+.2f}" for margin, metric in zip(margins, table["metric"], strict=True)],
        "seeds": table["seeds"].astype(str),
    }).set_index((table["label"] + ": rows that miss the paper, one thing varied").rename(
        "setting"))
