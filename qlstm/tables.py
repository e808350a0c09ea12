"""Tables: from run records to pandas DataFrames, the paper's numbers beside ours."""

from importlib.resources import files

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads itself on first use, which takes a second

from qlstm import data
from qlstm.experiments import ARTEFACTS, ExperimentConfig, defaults
from qlstm.quantizers import QUANTIZERS
from qlstm.sizes import round_half_up, size_kb

QUANTIZER_TITLES = {
    "full_precision": "full precision", "binary_connect": "BinaryConnect (BC)", "bwn": "BWN", "lab": "LAB",
    "ter_connect": "TerConnect (TC)", "twn": "TWN", "lat": "LAT", "sbn": "SBN", "stn": "STN",
    "alternating": "alternating",
}  # fmt: skip
NORMALIZER_TITLES = {"none": "–", "weight": "weight", "layer": "layer", "batch_shared": "batch (shared)",
                     "batch_separate": "batch (separate)"}  # fmt: skip
NORMALIZER_WORDS = NORMALIZER_TITLES | {"none": "none"}
NOT_RUN, DIVERGED, NOT_AT_HAND = "·", "N/A", "–"


def published() -> pd.DataFrame:
    """The numbers that the authors published (poster and appendix), one row a number; value empty: not reported."""
    with (files("qlstm") / "published_results.csv").open() as file:
        return pd.read_csv(file)


def frame(records: list[dict]) -> pd.DataFrame:
    """Records as a DataFrame: a row a run, with its settings' label; records of different texts stay apart."""
    rows = []
    for record in records:
        config = ExperimentConfig(**record["config"])
        rows.append({
            "dataset": config.dataset, "label": label(config, record["data"]["sha256"]),
            "sha256": record["data"]["sha256"], "paper_scale": config.at_paper_scale and not record["data"]["reduced"],
            "quantizer": config.quantizer, "normalizer": config.normalizer, "seed": config.seed,
            "metric": record["metric"], "test": record["test_metric"], "diverged": record["diverged"],
            "size_kb": record["size_kb"], "seconds": record["seconds"], "run_id": record["run_id"],
        })  # fmt: skip
    columns = ["dataset", "label", "sha256", "paper_scale", "quantizer", "normalizer", "seed", "metric", "test",
               "diverged", "size_kb", "seconds", "run_id"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def select(records: list[dict], artefact: str) -> tuple[str, dict[tuple[str, str], dict]]:
    """The runs a figure is made from: its setting's label and a record for each row that exists (lowest seed).

    Of several settings the one at the paper's scale is taken, then the paper's data set, then the most complete.
    Raises ``LookupError`` without any.
    """
    spec, runs = ARTEFACTS[artefact], frame(records)
    rows = pd.Series(list(zip(runs["quantizer"], runs["normalizer"], strict=True)), index=runs.index, dtype=object)
    runs = runs[rows.isin(spec["rows"])]
    if runs.empty:
        raise LookupError(f"no run for {artefact} yet: make reproduce ONLY={artefact}")

    def merit(group):
        named = group["dataset"].iloc[0] in spec["datasets"]
        return (named and group["paper_scale"].iloc[0], named, len(group.groupby(["quantizer", "normalizer"])))

    label, chosen = max(runs.groupby("label", sort=False), key=lambda pair: merit(pair[1]))
    by_id = {record["run_id"]: record for record in records}
    chosen = chosen.sort_values("seed").drop_duplicates(["quantizer", "normalizer"])
    return label, {(row.quantizer, row.normalizer): by_id[row.run_id] for row in chosen.itertuples()}


def makeable(records: list[dict], artefact: str) -> bool:
    """Whether there is any run that the table or figure can be made from."""
    try:
        select(records, artefact)
    except LookupError:
        return False
    return True


def label(config: ExperimentConfig, sha256: str) -> str:
    """A data set with the scale of the runs on it: ``War and Peace``, or ``... (reduced: d = 128, 5 epochs)``."""
    title = data.title(config.dataset)
    if config.at_paper_scale:
        return title
    usual = defaults("paper", config.dataset)
    words = {"hidden_size": "d = {}", "epochs": "{} epochs", "max_symbols": "first {:,} symbols", "num_layers": "{} layers",
             "steps": "T = {}", "batch_size": "N = {}", "learning_rate": "rate {}", "lr_decay": "decay {}",
             "clip_norm": "clip {}"}  # fmt: skip
    differing = [text.format(getattr(config, key)) for key, text in words.items() if getattr(config, key) != usual[key]]
    text = [] if config.dataset in data.CATALOGUE and config.dataset != "python_help" else [f"text {sha256[:6]}"]
    return f"{title} (reduced: {', '.join(differing + text)})"


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t-interval of the test metric over seeds, a row for each label, quantizer and normalizer.

    Columns ``mean``, ``half_width`` (NaN for one seed), ``seeds``, ``diverged`` (how many; they do not enter the
    mean), ``size_kb``, ``paper_scale``, ``dataset``.
    """

    def summary(group):
        values = group["test"].dropna().astype(float)
        n = len(values)
        half = scipy.stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        first = group.iloc[0]
        return pd.Series({"mean": values.mean() if n else np.nan, "half_width": half, "seeds": len(group),
                          "diverged": int(group["diverged"].sum()), "size_kb": first["size_kb"],
                          "paper_scale": first["paper_scale"], "dataset": first["dataset"]})  # fmt: skip

    keys = ["label", "quantizer", "normalizer"]
    if runs.empty:
        return pd.DataFrame(
            columns=[*keys, "mean", "half_width", "seeds", "diverged", "size_kb", "paper_scale", "dataset"]
        )
    return runs.groupby(keys, sort=False)[list(runs.columns)].apply(summary).reset_index()


def table_2(records: list[dict]) -> pd.DataFrame:
    """Table 2 in long form: a row for each data set (or reduced setting), quantizer and normalizer.

    Paper's rows always stand there, with ``paper_bpc`` and ``paper_kb`` (the printed size) beside ``computed_kb``
    (by the formula, at the paper's scale); ours (``bpc`` mean over seeds, ``half_width``, ``seeds``, ``diverged``,
    ``size_kb``) where runs exist, reduced ones under a ``label`` of their own and without a paper's number.
    """
    spec = ARTEFACTS["table_2"]
    paper = published().query("task == 'char_lm'").set_index(["dataset", "quantizer", "normalizer"])
    ours = over_seeds(frame(records))
    groups = [(data.title(name), name, True) for name in spec["datasets"]]
    groups += [
        (name, group["dataset"].iloc[0], False)
        for name, group in ours[~ours["paper_scale"].astype(bool)].groupby("label", sort=False)
    ]
    ours = ours.set_index(["label", "quantizer", "normalizer"])
    rows = []
    for group, dataset, at_scale in groups:
        own = [key[1:] for key in ours.index if key[0] == group]
        for quantizer, normalizer in spec["rows"] + [row for row in own if row not in spec["rows"]]:
            row = {"label": group, "paper_scale": at_scale, "quantizer": quantizer, "normalizer": normalizer,
                   "bits": getattr(QUANTIZERS.get(quantizer), "bits", None)}  # fmt: skip
            if at_scale:
                config = ExperimentConfig(profile="paper", dataset=dataset, quantizer=quantizer, normalizer=normalizer)
                row["computed_kb"] = round_half_up(size_kb(config))
                if (dataset, quantizer, normalizer) in paper.index:
                    printed = paper.loc[(dataset, quantizer, normalizer)]
                    row |= {"in_paper": True, "paper_bpc": printed["value"], "paper_kb": printed["size_kb"]}
            if (group, quantizer, normalizer) in ours.index:
                result = ours.loc[(group, quantizer, normalizer)]
                row |= {"bpc": result["mean"], "half_width": result["half_width"], "seeds": result["seeds"],
                        "diverged": result["diverged"], "size_kb": result["size_kb"]}  # fmt: skip
            rows.append(row)
    columns = ["label", "paper_scale", "bits", "quantizer", "normalizer", "in_paper", "paper_bpc", "paper_kb",
               "computed_kb", "bpc", "half_width", "seeds", "diverged", "size_kb"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"in_paper": "boolean"}).fillna({"in_paper": False})


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A long table as people read it: a row for each quantizer and normalizer, columns for each text.

    What has been run stands first. A reduced setting is headed "reduced" with a number that :func:`notes` explains.
    Marks: ``·`` not run; ``N/A`` diverged, or printed so by the authors; ``–`` the paper's number is not at hand.
    """
    parts = {}
    headings = dict(zip(dict.fromkeys(table["label"]), _headings(table), strict=True))
    groups = sorted(table.groupby("label", sort=False), key=lambda pair: pair[1]["seeds"].isna().all())
    for group, rows in groups:
        rows = rows.set_index(["bits", "quantizer", "normalizer"])
        measured = {"our BPC": rows.apply(_measured, axis=1)}
        if rows["paper_scale"].iloc[0]:
            columns = {"paper BPC": rows.apply(_printed, axis=1)} | ({} if rows["seeds"].isna().all() else measured)
            columns["paper KB"] = rows["paper_kb"].map(lambda kb: NOT_AT_HAND if pd.isna(kb) else f"{kb:.0f}")
            columns["our KB"] = rows["computed_kb"].map("{:.0f}".format)
        else:
            columns = measured
            columns["our KB"] = rows["size_kb"].map(lambda kb: NOT_RUN if pd.isna(kb) else f"{round_half_up(kb)}")
        parts |= {(headings[group], name): values for name, values in columns.items()}
    result = pd.DataFrame(parts).fillna(NOT_RUN)
    order = {key: i for i, key in enumerate(zip(table["bits"], table["quantizer"], table["normalizer"], strict=True))}
    result = result.loc[sorted(result.index, key=lambda key: order.get(key, len(order)))]
    result.index = pd.MultiIndex.from_tuples(
        [(f"{bits:.0f}" if pd.notna(bits) else "", QUANTIZER_TITLES.get(q, q), NORMALIZER_TITLES.get(n, n))
         for bits, q, n in result.index],
        names=["bits", "quantization", "normalization"],
    )  # fmt: skip
    return result


def _headings(table: pd.DataFrame) -> list[str]:
    """Short column headings: the text, and for a reduced setting "reduced" with a number."""
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
    return DIVERGED if pd.isna(row["paper_bpc"]) else f"{row['paper_bpc']:.2f}"


def _measured(row) -> str:
    if pd.isna(row["seeds"]):
        return NOT_RUN
    if pd.isna(row["bpc"]):
        return DIVERGED
    interval = "" if pd.isna(row["half_width"]) else f" ± {row['half_width']:.2f}"
    lost = f" ({row['diverged']:.0f} of {row['seeds']:.0f} diverged)" if row["diverged"] else ""
    return f"{row['bpc']:.2f}{interval}{lost}"


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader must know beside the table: marks, scale, seeds, and the rows that have not been run."""
    lines = [f"{NOT_RUN} not run; {DIVERGED} the loss became NaN or infinite (or no number printed by the authors); "
             f"{NOT_AT_HAND} the paper's number is not at hand. KB: LSTM layers only, 1024 bytes (qlstm.size_kb)."]  # fmt: skip
    groups = list(table.groupby("label", sort=False))
    for heading, (group, rows) in zip(_headings(table), groups, strict=True):
        done = rows.dropna(subset=["seeds"])
        if done.empty:
            continue
        seeds = int(done["seeds"].min()), int(done["seeds"].max())
        count = f"{seeds[0]}" if seeds[0] == seeds[1] else f"{seeds[0]} to {seeds[1]}"
        spread = f"mean ± 95 % t-interval over {count} seeds" if seeds[1] > 1 else "one seed, so no interval"
        number = f"[{heading.rpartition('[')[2]} " if heading != group else ""
        line = f"{number}{group}: {spread}."
        missing = rows[rows["seeds"].isna()]
        if len(missing):
            names = missing.groupby("quantizer", sort=False)["normalizer"].agg(
                lambda n: ", ".join(NORMALIZER_WORDS.get(x, x) for x in n)
            )
            line += (
                " Left to PROFILE=paper: "
                + "; ".join(f"{QUANTIZER_TITLES.get(q, q)} ({n})" for q, n in names.items())
                + "."
            )
        lines.append(line)
    absent = [group for group, rows in groups if rows["seeds"].isna().all()]
    if absent:
        lines.append(f"Not run here at the paper's scale: {', '.join(absent)}; their columns are the paper's.")
    misprints = table[table["in_paper"] & (table["paper_kb"] != table["computed_kb"])]
    for _, row in misprints.iterrows():
        lines.append(f"Misprint in the paper's sizes: {QUANTIZER_TITLES[row['quantizer']]}, {NORMALIZER_WORDS[row['normalizer']]}, "
                     f"{row['label']}: {row['paper_kb']:.0f} printed, {row['computed_kb']:.0f} by the formula.")  # fmt: skip
    return lines


def styled(table: pd.DataFrame):
    """The readable table as a pandas Styler (HTML, LaTeX)."""
    return wide(table).style.set_table_attributes('class="results"')


def save(table: pd.DataFrame, directory, name: str):
    """Write ``name.csv`` (long form, full precision) and ``name.{md,tex,html}`` (as people read it)."""
    directory.mkdir(parents=True, exist_ok=True)
    table.to_csv(directory / f"{name}.csv", index=False)
    flat = wide(table)
    flat.columns = [f"{group}: {column}" for group, column in flat.columns]
    text = flat.reset_index().to_markdown(index=False, disable_numparse=True)
    remarks = "\n".join(f"- {line}" for line in notes(table))
    (directory / f"{name}.md").write_text(f"{text}\n\n{remarks}\n", encoding="utf-8")
    (directory / f"{name}.html").write_text(styled(table).to_html(table_uuid=name), encoding="utf-8")
    plain = wide(table).map(_latex).rename(columns=_latex).rename(index=_latex)
    (directory / f"{name}.tex").write_text(plain.style.to_latex(hrules=True, multicol_align="c"), encoding="utf-8")


def _latex(text: str) -> str:
    return text.replace("–", "--").replace("%", r"\%").replace("&", r"\&").replace("_", r"\_").replace("#", r"\#")
