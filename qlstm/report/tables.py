"""Tables: from run records to pandas DataFrames, the paper's numbers beside ours.

``records`` are those of a profile, as :func:`qlstm.study.records.load_all` returns them.
``artefact``: the name of a table or figure, as in :data:`qlstm.study.grid.ARTEFACTS`. ``table``:
the long form of one, which a function here has made.
"""

import dataclasses
import itertools
from html import escape
from importlib.resources import files

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads itself on first use, which takes a second

from qlstm import data
from qlstm.quantizers import QUANTIZERS
from qlstm.report import verdicts
from qlstm.study import costs
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.grid import ARTEFACTS, FROM_ALL, Panel, grid
from qlstm.study.profiles import PAPER_DATASETS, defaults
from qlstm.study.records import benchmarks
from qlstm.study.sizes import round_half_up, size_kb
from qlstm.study.tasks import METRICS, TASKS

QUANTIZER_TITLES = {"full_precision": "full precision", "binary_connect": "BinaryConnect (BC)",
                    "bwn": "BWN", "lab": "LAB", "ter_connect": "TerConnect (TC)", "twn": "TWN",
                    "lat": "LAT", "sbn": "SBN", "stn": "STN", "alternating": "alternating"}
NORMALIZER_TITLES = {"none": "–", "weight": "weight", "layer": "layer",
                     "batch_shared": "batch (shared)", "batch_separate": "batch (separate)"}
NORMALIZER_WORDS = NORMALIZER_TITLES | {"none": "none"}
NOT_RUN, DIVERGED, NOT_AT_HAND = "·", "N/A", "–"
OVERFLOWN = 1e300
"""What :func:`qlstm.study.traces.propositions` gives where the square of a gradient overflows and
the bound does not yet."""


def published() -> pd.DataFrame:
    """The numbers that the authors published (poster and appendix), one row a number; value empty:
    not reported."""
    with (files("qlstm.report") / "published_results.csv").open() as file:
        return pd.read_csv(file)


def frame(records: list[dict]) -> pd.DataFrame:
    """Records as a DataFrame: a row a run, with its settings' label; records of different data stay
    apart.

    ``config`` holds the :class:`~qlstm.study.config.ExperimentConfig` itself.
    """
    rows = []
    for record in records:
        config = ExperimentConfig(**record["config"])
        rows.append(
            {"dataset": config.dataset, "task": config.task,
             "label": label(config, record["data"]["sha256"]),
             "paper_scale": config.at_paper_scale and not record["data"]["reduced"],
             "quantizer": config.quantizer, "normalizer": config.normalizer, "seed": config.seed,
             "metric": record["metric"], "test": record["test_metric"],
             "diverged": record["diverged"], "size_kb": record["size_kb"],
             "packed_kb": (record["packed_bytes"] or np.nan) / 1024, "seconds": record["seconds"],
             "epochs": len(record["epochs"]) - 1, "run_id": record["run_id"], "config": config}
        )
    columns = ["dataset", "task", "label", "paper_scale", "quantizer", "normalizer", "seed",
               "metric", "test", "diverged", "size_kb", "packed_kb", "seconds", "epochs", "run_id",
               "config"]
    return pd.DataFrame(rows, columns=columns)


def select(
        records: list[dict], artefact: str) -> list[tuple[Panel, str, dict[tuple[str, str], dict]]]:
    """The runs a figure is made from, a triple a panel: it, its setting's label, a record for each
    row (lowest seed).

    Of several settings the one at the paper's scale is taken, then the paper's data set, then the
    most complete. Panels without any run are left out. Raises ``LookupError`` if all are.
    """
    runs, chosen = frame(records), []
    by_id = {record["run_id"]: record for record in records}
    for panel in ARTEFACTS[artefact]:
        rows = list(zip(runs["quantizer"], runs["normalizer"], strict=True))
        fitting = runs[
            [row in panel.rows and panel.suits(c)
             for row, c in zip(rows, runs["config"], strict=True)]
        ]
        if fitting.empty:
            continue

        def merit(group, panel=panel):
            named = group["dataset"].iloc[0] == panel.dataset
            return (named and group["paper_scale"].iloc[0], named,
                    len(group.groupby(["quantizer", "normalizer"])))

        name, best = max(fitting.groupby("label", sort=False), key=lambda pair: merit(pair[1]))
        best = best.sort_values("seed").drop_duplicates(["quantizer", "normalizer"])
        found = {(row.quantizer, row.normalizer): by_id[row.run_id] for row in best.itertuples()}
        chosen.append((panel, name, {row: found[row] for row in panel.rows if row in found}))
    if not chosen:
        raise LookupError(f"no run for {artefact} yet: make reproduce ONLY={artefact}")
    return chosen


def makeable(records: list[dict], artefact: str) -> bool:
    """Whether there is any run that the table or figure can be made from."""
    if artefact in FROM_ALL:
        return bool(records)
    try:
        select(records, artefact)
    except LookupError:
        return False
    return True


def label(config: ExperimentConfig, sha256: str) -> str:
    """Data, model and scale of the runs with a ``config`` on the text with ``sha256``: ``Penn
    Treebank (words), d = 650``, or ``War and Peace (reduced: d = 128, 5 epochs)``."""
    title, usual, reduced = (
        data.title(config.dataset),
        defaults("paper", config.task, config.dataset, config.normalizer, config.quantizer), [])
    if config.task == "word_lm":
        title += f", d = {config.hidden_size}"
    title += {1: ""}.get(config.num_layers, f", {config.num_layers} layers")
    title += ", GRU" if config.cell == "gru" else ""
    title += ", permuted" if config.permuted else ""
    if config.initial_gain != usual["initial_gain"]:
        title += f", gains {config.initial_gain or 'as defined'}"
    if config.state_noise != usual["state_noise"]:
        title += f", state noise {config.state_noise}"
    for name, text in {"decay": "decay of {} weights", "biases": "{} biases",
                       "min_learning_rate": "least rate {:g}",
                       "carry_state": "carried state {}"}.items():
        if getattr(config, name) not in (config.usual(name), usual[name]):
            title += ", " + text.format(getattr(config, name))
    words = {"hidden_size": "d = {}", "epochs": "{} epochs", "max_train": "first {:,}",
             "steps": "T = {}", "batch_size": "N = {}", "learning_rate": "rate {:g}",
             "lr_decay": "decay {:g}", "clip_norm": "clip {:g}", "dropout": "dropout {:g}"}
    if config.task == "word_lm":
        del words["hidden_size"]  # it is in the title
    reduced += [text.format(getattr(config, key)) for key, text in words.items()
                if getattr(config, key) != usual[key]]
    reduced = ["1 epoch" if text == "1 epochs" else text for text in reduced]
    if config.dataset not in data.CATALOGUE or config.dataset.startswith("python_help"):
        reduced.append(f"text {sha256[:6]}")
    if dataclasses.replace(config, **dict.fromkeys(["cell", *SPECIAL])).at_paper_scale:
        return title
    return f"{title} (reduced: {', '.join(reduced or ['another size'])})"


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t-interval of the test metric of ``runs`` (:func:`frame`) over seeds, a row for
    each label, quantizer and normalizer.

    Columns ``mean``, ``half_width`` (NaN for one seed), ``seeds``, ``diverged`` (how many; they do
    not enter the mean), and those of the first run: ``size_kb``, ``packed_kb``, ``paper_scale``,
    ``dataset``, ``metric``, ``config``.
    """
    keys, kept = (["label", "quantizer", "normalizer"],
                  ["size_kb", "packed_kb", "paper_scale", "dataset", "metric", "config"])

    def summary(group):
        values = group["test"].dropna().astype(float)
        n = len(values)
        half = (
            scipy.stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan)
        result = {"mean": values.mean() if n else np.nan, "half_width": half, "seeds": len(group),
                  "diverged": int(group["diverged"].sum())}
        return pd.Series(result | {name: group.iloc[0][name] for name in kept})

    if runs.empty:
        return pd.DataFrame(columns=[*keys, "mean", "half_width", "seeds", "diverged", *kept])
    return runs.groupby(keys, sort=False)[list(runs.columns)].apply(summary).reset_index()


SEEDS_NEEDED = 3
"""Seeds that both sides of a paired test must have: with two, one degree of freedom can hardly show
anything."""


def paired_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """Normalizers of one setting and quantizer compared in pairs over the seeds that both have:
    paired t-tests.

    ``runs``: of :func:`frame`. A row for each label, quantizer and pair of normalizers ``a``,
    ``b``: ``seeds`` (common to both; those where one diverged do not count), ``difference`` (mean
    of a - b in the metric's unit), ``half_width`` of its 95 % t-interval, ``p`` (two-sided),
    ``p_holm`` (Holm 1979, over the pairs of one label and quantizer) and ``remark``, which says why
    a row has no p. Seeds share initial weights and minibatches as far as the networks do, hence
    pairs.
    """
    rows = []
    for (name, quantizer), group in runs.groupby(["label", "quantizer"], sort=False):
        by_seed = group.pivot_table("test", "seed", "normalizer", sort=False, dropna=False).astype(
            float)
        names = [n for n in [*NORMALIZER_TITLES, *by_seed.columns] if n in by_seed]
        family = []
        for a, b in itertools.combinations(dict.fromkeys(names), 2):
            differences = (by_seed[a] - by_seed[b]).dropna()
            n, spread = len(differences), differences.std(ddof=1)
            row = {"label": name, "quantizer": quantizer, "a": a, "b": b, "seeds": n,
                   "difference": differences.mean(), "half_width": np.nan, "p": np.nan,
                   "remark": ""}
            if n < SEEDS_NEEDED:
                row["remark"] = f"too few seeds: {n}, {SEEDS_NEEDED} are needed"
            elif spread == 0:
                row["remark"] = "the seeds do not differ"
            else:
                row["half_width"] = scipy.stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)
                row["p"] = float(scipy.stats.ttest_1samp(differences, 0).pvalue)
            family.append(row)
        tested = sorted((row for row in family if row["p"] == row["p"]), key=lambda row: row["p"])
        smallest = 0.0
        for rank, row in enumerate(
            tested
        ):  # Holm: the i-th smallest of m times m - i + 1, never below the one before
            row["p_holm"] = smallest = max(smallest, min(1.0, (len(tested) - rank) * row["p"]))
        rows += family
    columns = ["label", "quantizer", "a", "b", "seeds", "difference", "half_width", "p", "p_holm",
               "remark"]
    return pd.DataFrame(rows, columns=columns)


COLUMNS = ["label", "paper_scale", "bits", "quantizer", "normalizer", "metric", "in_paper", "paper",
           "paper_kb", "computed_kb", "ours", "half_width", "seeds", "diverged", "size_kb",
           "packed_kb", "verdict"]


def results(records: list[dict], artefact: str) -> pd.DataFrame:
    """Tables 2 to 5 in long form: a row for each setting (data, size, scale), quantizer and
    normalizer.

    The paper's rows always stand there: ``paper`` (the printed number, NaN: not at hand) and
    ``paper_kb`` (the printed size) beside ``computed_kb`` (by the formula) and ours, where runs at
    that scale exist: ``ours`` (mean over seeds), ``half_width`` (95 % t-interval), ``seeds``,
    ``diverged``, ``size_kb``, ``packed_kb`` (on disk) and ``verdict``
    (:mod:`qlstm.report.verdicts`). Reduced runs stand under a ``label`` of their own, without a
    paper's number.
    """
    panels = ARTEFACTS[artefact]
    runs = over_seeds(frame(records))
    ours = runs[
        np.array(
            [any(panel.suits(config) for panel in panels) for config in runs["config"]], dtype=bool)
    ]
    rows = []
    for panel in panels:
        paper = ExperimentConfig(profile="paper", dataset=panel.dataset, **panel.overrides("paper"))
        printed = _printed_rows(paper)
        rows += _group(label(paper, ""), True, panel.rows, ours, paper, printed)
    for name, group in ours[~ours["paper_scale"].astype(bool)].groupby("label", sort=False):
        rows += _group(name, False, panels[0].rows, ours, group["config"].iloc[0], {})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"in_paper": bool})


def _printed_rows(paper: ExperimentConfig) -> dict[tuple[str, str], pd.Series]:
    """The published rows of a setting of the paper."""
    found = published()
    found = found[(found["dataset"] == paper.dataset) & (found["layers"] == paper.num_layers)
                  & (found["hidden"] == paper.hidden_size)]
    return {(row["quantizer"], row["normalizer"]): row for _, row in found.iterrows()}


def _group(name, at_scale, rows, ours, config, printed) -> list[dict]:
    """The rows of one label: those of the table, then those of the user's own."""
    own = {(run["quantizer"], run["normalizer"]): run
           for _, run in ours[ours["label"] == name].iterrows()}
    metric, result = TASKS[config.task].metric.name, []
    base = ("full_precision", "none")
    baselines = [float(values[base][key]) if base in values else None
                 for values, key in ((printed, "value"), (own, "mean"))]
    for quantizer, normalizer in [*rows, *[row for row in own if row not in rows]]:
        row = {"label": name, "paper_scale": at_scale, "quantizer": quantizer,
               "normalizer": normalizer, "metric": metric,
               "bits": getattr(QUANTIZERS.get(quantizer), "bits", None), "in_paper": False,
               "verdict": verdicts.NOT_RUN}
        if at_scale:
            settings = config.settings | dict(
                quantizer=quantizer, normalizer=normalizer, profile="paper")
            for setting in SPECIAL:  # these follow from the normalizer
                settings.pop(setting)
            row["computed_kb"] = round_half_up(
                size_kb(ExperimentConfig(**settings), row_scales=False))
            if (quantizer, normalizer) in printed:
                found = printed[quantizer, normalizer]
                row |= {"in_paper": True, "paper": found["value"], "paper_kb": found["size_kb"]}
        if (quantizer, normalizer) in own:
            run = own[quantizer, normalizer]
            row |= {"ours": run["mean"]} | {
                key: run[key] for key in ("half_width", "seeds", "diverged", "size_kb", "packed_kb")
            }
            row["verdict"] = verdicts.REDUCED
            if at_scale:
                row["verdict"] = verdicts.verdict(
                    metric, row.get("paper"), run["mean"], paper_baseline=baselines[0],
                    our_baseline=baselines[1], half_width=run["half_width"], seeds=run["seeds"],
                    diverged=run["diverged"])
        result.append(row)
    return result




def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A long table as people read it: a row for each quantizer and normalizer, columns for each
    setting.

    What has been run stands first. A reduced setting is headed "reduced" with a number that
    :func:`notes` explains. Marks: ``·`` not run; ``N/A`` diverged, or printed so by the authors;
    ``–`` the paper's number is not at hand.
    """
    parts = {}
    headings = dict(zip(dict.fromkeys(table["label"]), _headings(table), strict=True))
    groups = sorted(
        table.groupby("label", sort=False), key=lambda pair: pair[1]["seeds"].isna().all())
    for group, rows in groups:
        rows = rows.set_index(["bits", "quantizer", "normalizer"])
        unit, run = METRICS[rows["metric"].iloc[0]].title, rows["seeds"].notna().any()
        measured = {f"our {unit}": rows.apply(_measured, axis=1)}
        on_disk = {
            "on disk KB": rows["packed_kb"].map(lambda kb: NOT_RUN if pd.isna(kb) else f"{kb:.1f}")}
        if rows["paper_scale"].iloc[0]:
            columns = {f"paper {unit}": rows.apply(_printed, axis=1)}
            columns |= (measured | {"verdict": rows["verdict"]}) if run else {}
            columns["paper KB"] = rows["paper_kb"].map(
                lambda kb: NOT_AT_HAND if pd.isna(kb) else f"{kb:.0f}")
            columns["our KB"] = rows["computed_kb"].map("{:.0f}".format)
        else:
            columns = measured
            columns["our KB"] = rows["size_kb"].map(
                lambda kb: NOT_RUN if pd.isna(kb) else f"{round_half_up(kb)}")
        parts |= {(headings[group], name): values
                  for name, values in (columns | (on_disk if run else {})).items()}
    result = pd.DataFrame(parts).fillna(NOT_RUN)
    order = {
        key: i
        for i, key in enumerate(
                zip(table["bits"], table["quantizer"], table["normalizer"], strict=True))
    }
    result = result.loc[sorted(result.index, key=lambda key: order.get(key, len(order)))]
    result.index = pd.MultiIndex.from_tuples(
        [
            (f"{bits:.0f}" if pd.notna(bits) else "", QUANTIZER_TITLES.get(q, q),
             NORMALIZER_TITLES.get(n, n))
            for bits, q, n in result.index
        ],
        names=["bits", "quantization", "normalization"],
    )
    return result


def _headings(table: pd.DataFrame) -> list[str]:
    """Short column headings: the setting, and for a reduced one "reduced" with a number."""
    headings, number = [], 0
    for group, rows in table.groupby("label", sort=False):
        if rows["paper_scale"].iloc[0]:
            headings.append(group)
        else:
            number += 1
            headings.append(f"{group.partition(' (reduced: ')[0]}, reduced [{number}]")
    return headings


def _printed(row) -> str:
    if not row["in_paper"]:
        return NOT_AT_HAND
    digits = METRICS[row["metric"]].digits
    return DIVERGED if pd.isna(row["paper"]) else f"{row['paper']:.{digits}f}"


def _measured(row) -> str:
    if pd.isna(row["seeds"]):
        return NOT_RUN
    if pd.isna(row["ours"]):
        return DIVERGED
    digits = METRICS[row["metric"]].digits
    interval = "" if pd.isna(row["half_width"]) else f" ± {row['half_width']:.{digits}f}"
    lost = f" ({row['diverged']:.0f} of {row['seeds']:.0f} diverged)" if row["diverged"] else ""
    return f"{row['ours']:.{digits}f}{interval}{lost}"


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader must know beside the table: marks, scale, seeds, and the rows that have not
    been run."""
    lines = [
        f"{NOT_RUN} not run; {DIVERGED} the loss became NaN or infinite (or no number printed by the authors); "
        f"{NOT_AT_HAND} the paper's number is not at hand. KB: recurrent layers only, 1024 bytes (qlstm.size_kb); "
        "on disk: the same tensors in the packed file (qlstm.save_packed). Verdicts by the rule in qlstm/report/verdicts.py, "
        "at the paper's scale only."
    ]
    groups = list(table.groupby("label", sort=False))
    for heading, (group, rows) in zip(_headings(table), groups, strict=True):
        done = rows.dropna(subset=["seeds"])
        if done.empty:
            continue
        seeds = int(done["seeds"].min()), int(done["seeds"].max())
        count = f"{seeds[0]}" if seeds[0] == seeds[1] else f"{seeds[0]} to {seeds[1]}"
        spread = (f"mean ± 95 % t-interval over {count} seeds" if seeds[1] > 1
                  else "one seed, so no interval")
        number = f"[{heading.rpartition('[')[2]} " if heading != group else ""
        line = f"{number}{group}: {spread}."
        missing = rows[rows["seeds"].isna()]
        if len(missing):
            names = missing.groupby("quantizer", sort=False)["normalizer"].agg(
                lambda n: ", ".join(NORMALIZER_WORDS.get(x, x) for x in n))
            line += (" Left to PROFILE=paper: "
                     + "; ".join(f"{QUANTIZER_TITLES.get(q, q)} ({n})" for q, n in names.items())
                     + ".")
        lines.append(line)
    absent = [group for group, rows in groups if rows["seeds"].isna().all()]
    if absent:
        lines.append(
            f"Not run here at the paper's scale: {'; '.join(absent)}; their columns are the paper's."
        )
    if table["metric"].eq("ppl").any():
        lines.append(
            "Words train by plain SGD, which has no second moment: LAB and LAT use D = 1, where they reduce to BWN "
            "and to ternary least squares."
        )
    for _, row in misprints(table).iterrows():
        lines.append(
            f"Misprint in the paper's sizes: {QUANTIZER_TITLES[row['quantizer']]}, {NORMALIZER_WORDS[row['normalizer']]}, "
            f"{row['label']}: {row['paper_kb']:.0f} printed, {row['computed_kb']:.0f} by the formula."
        )
    suspects = table[(table["paper"] == 113.8) & (table["quantizer"] == "ter_connect")]
    if len(suspects) > 1:
        lines.append(
            "The paper prints 113.8 for unnormalized TerConnect at both d = 300 and d = 650: suspected misprint."
        )
    return lines


def misprints(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`results` whose printed size the formula does not give."""
    return table[table["in_paper"] & (table["paper_kb"] != table["computed_kb"])]


def table_1(records: list[dict]) -> pd.DataFrame:
    """Table 1 in long form: spectral norms of W_h* by gate, and lambda_1, lambda_2, before and
    after quantization.

    A row for each setting, quantizer (unnormalized networks), epoch (0 and the best one) and gate;
    ``bound``: the lower bound of the quantized matrix (B_1 sqrt(d) for binary codes, (1 - sparsity)
    B_1 sqrt(d) for ternary ones).
    """
    rows = []
    for record in records:
        config = ExperimentConfig(**record["config"])
        if (config.normalizer != "none" or config.task == "sequential_image"
            or config.cell != "lstm"):
            continue
        for epoch in {0, record["best_epoch"]} - {None}:
            found = record["epochs"][epoch]["spectral"]
            for gate, name in enumerate("ifao"):
                row = {"label": label(config, record["data"]["sha256"]),
                       "quantizer": config.quantizer, "seed": config.seed, "d": config.hidden_size,
                       "epoch": epoch, "gate": name}
                for moment in ("before", "after"):
                    row[moment] = found[moment]["norms"][gate]
                    row |= {f"{name}_{moment}": found[moment].get(name)
                            for name in ("lambda_1", "lambda_2")}
                row["bound"] = found["after"].get("bounds", [None] * 4)[gate]
                rows.append(row)
    columns = ["label", "quantizer", "seed", "d", "epoch", "gate", "before", "after", "bound",
               "lambda_1_before", "lambda_1_after", "lambda_2_before", "lambda_2_after"]
    return pd.DataFrame(rows, columns=columns)


TABLE_1_NOTES = [
    "Each pair: before → after quantization, the same network with its latent and with its quantized weights. λ₁ and λ₂: "
    "medians over time steps and samples of a minibatch, with the c_{t-1} of each step (Proposition 2.1).",
    "Lower bound of the quantized matrix's norm: B₁ √d for binary codes, (1 - sparsity) B₁ √d for ternary ones, B₁ the smallest "
    "positive level; the smallest of the four gates.",
    "The paper's Table 1 is not at hand; this one is reconstructed from its propositions and its reviews.",
]
"""What a reader of Table 1 must know."""


def table_1_wide(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as people read it: a row a quantizer and epoch, "before → after" by gate (seed 0)."""

    def row(group):
        gates = group.set_index("gate")
        cells = {f"‖W_h{gate}‖": f"{gates.loc[gate, 'before']:.2f} → {gates.loc[gate, 'after']:.2f}"
                 for gate in "ifao"}
        bound = gates["bound"].dropna()
        cells["lower bound"] = NOT_AT_HAND if bound.empty else f"{bound.min():.2f}"
        for name in ("lambda_1", "lambda_2"):
            before, after = gates[f"{name}_before"].iloc[0], gates[f"{name}_after"].iloc[0]
            cells["λ₁" if name == "lambda_1" else "λ₂"] = f"{before:.2f} → {after:.2f}"
        return pd.Series(cells)

    order = list(QUANTIZER_TITLES)
    table = table.sort_values(
        ["label", "quantizer"],
        kind="stable",
        key=lambda c: (c.map(lambda q: order.index(q) if q in order else len(order))
                       if c.name == "quantizer" else c),
    )
    first = table[table["seed"] == table.groupby(["label", "quantizer"])["seed"].transform("min")]
    first = first.assign(quantization=first["quantizer"].map(lambda q: QUANTIZER_TITLES.get(q, q)),
                         setting=first["label"])
    keys = ["setting", "quantization", "epoch"]
    return first.groupby(keys, sort=False)[list(first.columns)].apply(row)


def gradients(records: list[dict]) -> pd.DataFrame:
    """How gradients grow, beside the theory: a row for each run and moment of training.

    ``rate``: of ||d xi_T/d h_t|| a time step on the way back, (||d xi_T/d h_1|| / ||d xi_T/d
    h_T||)^(1/(T - 1)), xi_T the loss of the last step; median over the shown samples. ``growth``:
    rate^(T - 1). ``lambda_1``: median over steps (its root where squared norms are bounded, in
    batch normalization); ``ratio``: largest left side over right side of ``proposition`` (1 or
    less: it holds; NaN: none applies, or a gradient's square left the range of 64 bits).
    """
    rows = []
    for record in records:
        config = ExperimentConfig(**record["config"])
        for moment, norms in record["traces"]["gradient_norms"].items():
            rate = pd.Series(
                [_rate(norms["steps"], line) for line in norms.get("last_step", norms["training"])]
            ).median()
            growth = rate ** (norms["steps"][-1] - norms["steps"][0])
            bound = record["traces"]["propositions"].get(moment) or {}
            rows.append(
                {
                    "label": label(config, record["data"]["sha256"]),
                    "quantizer": config.quantizer,
                    "normalizer": config.normalizer,
                    "seed": config.seed,
                    "moment": moment,
                    "growth": growth,
                    "rate": rate,
                    "proposition": bound.get("proposition"),
                    "ratio": bound["ratio"]
                    if bound.get("ratio", OVERFLOWN) < OVERFLOWN
                    else np.nan,
                    "lambda_1": _unsquared(
                        config,
                        np.median(np.array(bound["lambda_1"], dtype=float)) if bound else None),
                    "config": config,
                }
            )
    columns = ["label", "quantizer", "normalizer", "seed", "moment", "growth", "rate",
               "proposition", "ratio", "lambda_1", "config"]
    return pd.DataFrame(rows, columns=columns)


def _rate(steps: list[int], norms: list[float | None]) -> float:
    """Growth a time step on the way back, from the last step to the earliest with a norm that is
    neither 0 nor overflown."""
    values = np.array(norms, dtype=float)
    usable = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(usable) < 2 or usable[-1] != len(values) - 1:
        return np.nan
    return float((values[usable[0]] / values[-1]) ** (1 / (steps[-1] - steps[usable[0]])))


def _unsquared(config: ExperimentConfig, lambda_1: float | None) -> float:
    """The proposition on batch normalization speaks of squared norms: its lambda_1 compares with
    the others as a root."""
    if lambda_1 is None:
        return np.nan
    return float(np.sqrt(lambda_1) if config.normalizer.startswith("batch") else lambda_1)


def by_epoch(records: list[dict]) -> pd.DataFrame:
    """What is traced at the end of each epoch, a row a run and epoch: loss, metric, lambda_1 before
    and after quantization, g_* (largest over gates), training seconds a run's epoch on average."""
    rows = []
    for record in records:
        config = ExperimentConfig(**record["config"])
        for epoch in record["epochs"]:
            spectral = epoch["spectral"] or {}
            gains = epoch["gains"]["g"][-1] if epoch["gains"] else None
            rows.append(
                {
                    "label": label(config, record["data"]["sha256"]),
                    "quantizer": config.quantizer,
                    "normalizer": config.normalizer,
                    "seed": config.seed,
                    "epoch": epoch["epoch"],
                    "valid_loss": epoch.get("valid_loss"),
                    "valid_metric": epoch.get("valid_metric"),
                    "lambda_1_before": _unsquared(
                        config, spectral.get("before", {}).get("lambda_1")),
                    "lambda_1_after": _unsquared(config, spectral.get("after", {}).get("lambda_1")),
                    "g": None
                    if gains is None
                    else max((g for g in gains if g is not None), default=None),
                    "config": config,
                }
            )
    columns = ["label", "quantizer", "normalizer", "seed", "epoch", "valid_loss", "valid_metric",
               "lambda_1_before", "lambda_1_after", "g", "config"]
    return pd.DataFrame(rows, columns=columns)


def statistics_experiment(records: list[dict]) -> pd.DataFrame:
    """Test accuracy of BinaryConnect on images by statistics, initial gain and state noise (mean
    over seeds, ± interval).

    A column for each of batch (shared) and batch (separate); rows: data and scale, gain ("U(0, 1)"
    or a number), noise.
    """
    runs = over_seeds(frame(records))
    runs = runs[(runs["metric"] == "accuracy") & (runs["quantizer"] == "binary_connect")
                & runs["normalizer"].str.startswith("batch")]
    if runs.empty:
        return pd.DataFrame()
    settings = [label(dataclasses.replace(config, initial_gain=None, state_noise=None), "")
                for config in runs["config"]]
    runs = runs.assign(
        data=settings,
        gain=[f"{config.initial_gain:g}" if config.initial_gain else "U(0, 1)"
              for config in runs["config"]],
        noise=[f"{config.state_noise:g}" for config in runs["config"]],
        statistics=runs["normalizer"].map(NORMALIZER_TITLES),
        shown=runs.rename(columns={"mean": "ours"}).apply(_measured, axis=1),
    )
    shown = runs.rename(columns={"gain": "initial gain", "noise": "state noise"})
    return shown.pivot_table(
        "shown", ["data", "initial gain", "state noise"], "statistics", aggfunc="first"
    ).fillna(NOT_RUN)


def beside_lstm(records: list[dict]) -> pd.DataFrame:
    """GRUs beside LSTMs of the same setting: test metric, size and growth of the gradient a step
    (largest moment)."""
    runs = over_seeds(frame(records))
    growth = gradients(records).groupby(["label", "quantizer", "normalizer"])["rate"].max()
    rows = []
    for gru in runs[[config.cell == "gru" for config in runs["config"]]].itertuples():
        for cell, name in (("GRU", gru.label), ("LSTM", gru.label.replace(", GRU", ""))):
            key = (name, gru.quantizer, gru.normalizer)
            found = runs[(runs["label"] == name) & (runs["quantizer"] == gru.quantizer)
                         & (runs["normalizer"] == gru.normalizer)]
            for run in found.rename(columns={"mean": "ours"}).itertuples():
                rows.append(
                    {"setting": name.replace(", GRU", ""),
                     "quantization": QUANTIZER_TITLES.get(gru.quantizer, gru.quantizer),
                     "normalization": NORMALIZER_TITLES.get(gru.normalizer, gru.normalizer),
                     "cell": cell, f"test {METRICS[run.metric].title}": run.ours, "KB": run.size_kb,
                     "gradient, a step": growth.get(key)}
                )
    table = pd.DataFrame(rows)
    return table.set_index(["setting", "quantization", "normalization", "cell"]) if rows else table


def run_time(records: list[dict]) -> pd.DataFrame:
    """Seconds of training an epoch, by setting and normalizer, and as a ratio to the same without
    normalization.

    Of full precision and BinaryConnect, means over seeds. Runs of one profile train side by side on
    a machine that does other things too, so that only the ratios say something; ``make bench``
    times the layer alone.
    """
    runs = frame(records)
    runs = runs[runs["quantizer"].isin(["full_precision", "binary_connect"])]
    runs = runs.assign(seconds_an_epoch=runs["seconds"] / runs["epochs"])
    runs = (runs.groupby(["label", "quantizer", "normalizer"], sort=False)["seconds_an_epoch"]
            .mean() .reset_index())
    means = runs.pivot_table("seconds_an_epoch", ["label", "quantizer"], "normalizer", sort=False)
    means = means[[name for name in NORMALIZER_TITLES if name in means]]
    ratios = means.div(means["none"], axis=0) if "none" in means else means * np.nan
    return pd.concat({"seconds an epoch": means, "times no normalization": ratios}, axis=1)


def styled(table: pd.DataFrame):
    """The readable table as a pandas Styler (HTML, LaTeX)."""
    return wide(table).style.set_table_attributes('class="results"')


def save(table: pd.DataFrame, directory, name: str, readable: pd.DataFrame | None = None,
         remarks: list[str] | None = None):
    """Write ``name.csv`` (long form, full precision) and ``name.{md,tex,html}`` (as people read it)
    into ``directory``.

    ``readable`` and ``remarks``: what people read and the notes below it, for a table other than
    :func:`results`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table.to_csv(directory / f"{name}.csv", index=False)
    readable = wide(table) if readable is None else readable
    remarks = notes(table) if remarks is None else remarks
    flat = readable.copy()
    flat.columns = [
        ": ".join(column) if isinstance(column, tuple) else column for column in flat.columns]
    text = flat.reset_index().to_markdown(index=False, disable_numparse=True)
    lines = "\n".join(f"- {line}" for line in remarks)
    (directory / f"{name}.md").write_text(f"{text}\n\n{lines}\n", encoding="utf-8")
    html = readable.style.set_table_attributes('class="results"').to_html(table_uuid=name)
    items = "".join(f"<li>{escape(line)}</li>" for line in remarks)
    (directory / f"{name}.html").write_text(
        f'{html}<ul class="notes">{items}</ul>\n', encoding="utf-8")
    plain = readable.map(_latex).rename(columns=_latex).rename(index=_latex)
    (directory / f"{name}.tex").write_text(
        plain.style.to_latex(hrules=True, multicol_align="c"), encoding="utf-8")


_LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "–": "--", "→": r"$\to$", "‖": r"$\|$",
          "λ₁": r"$\lambda_1$", "λ₂": r"$\lambda_2$", "±": r"$\pm$"}


def _latex(text) -> str:
    for mark, command in _LATEX.items():
        text = str(text).replace(mark, command)
    return text


def grid_hours() -> pd.DataFrame:
    """Hours of training of the paper's grid with one seed, one run after the other: a row a data
    set, a column a machine.

    From :mod:`qlstm.study.costs`; empty where a machine has no measured step for any of the runs,
    with a ``+`` where for some.
    """
    configs = grid("paper")
    hours = {}
    for machine in dict.fromkeys(machine for machine, _ in costs.step_times()):
        for dataset in [*PAPER_DATASETS, "all"]:
            chosen = [config for config in configs if dataset in (config.dataset, "all")]
            cost = costs.estimate(chosen, machine)
            known = (f"{cost.hours:,.0f}{'+' if cost.unknown else ''}" if cost.unknown < len(chosen)
                     else NOT_RUN)
            hours.setdefault(dataset, {"runs": len(chosen)})[machine] = known
    return pd.DataFrame.from_dict(hours, orient="index").rename_axis("data")


def bench(directory) -> pd.DataFrame:
    """The rows of all records of ``make bench`` in a ``directory``, with ``machine`` (device,
    threads or GPU), ``torch`` and the machine's peaks, ``gflop_per_s`` and ``gb_per_s``."""
    rows = []
    for path, record in benchmarks(directory):
        about = {"machine": path.stem.replace("_", " "),
                 "torch": record["environment"]["torch"]} | record["peaks"]
        rows += [about | row for row in record["rows"]]
    return pd.DataFrame(rows)


def bench_side_by_side(directory) -> pd.DataFrame:
    """Steps a second of all processes together: a row a machine and shape of the records in
    ``directory``, a column a number of them."""
    rows = []
    for path, record in benchmarks(directory):
        rows += [
            {"machine": path.stem.replace("_", " ")} | row for row in record.get("side_by_side", [])
        ]
    if not rows:
        return pd.DataFrame()
    return pd.DataFrame(rows).pivot_table("steps_per_s", ["machine", "shape"], "processes").round(1)


def bench_wide(rows: pd.DataFrame, part: str, moment: str) -> pd.DataFrame:
    """Times of a ``part`` ("layer", "step") and pass (``moment``): a row a shape and backend, a
    column a normalizer.

    ``rows`` as :func:`bench` gives them; each cell is milliseconds and the ratio to
    ``torch.nn.LSTM``'s in that run.
    """
    chosen = rows[(rows["part"] == part) & (rows["pass"] == moment)]
    cells = [
        f"{ms:.1f} ms, {ratio:.2f}" for ms, ratio in zip(chosen["ms"], chosen["ratio"], strict=True)
    ]
    columns = chosen["normalizer"].map(NORMALIZER_WORDS)
    wide = chosen.assign(cell=cells, normalization=columns).pivot_table(
        "cell", ["machine", "shape", "backend", "quantizer"], "normalization", aggfunc="first",
        sort=False)
    return wide.fillna(NOT_RUN)
