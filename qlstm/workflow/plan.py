"""The plan of a profile: what is to be trained and shown. It is the content of ``plan.json``, which
``python -m qlstm run``, ``status`` and on a cluster the Snakefile read.

    ==============  ==========================================================================
    ``profile``     the name of the profile
    ``metrics``     the name of each task's metric
    ``runs``        the settings of all runs that were ever planned, by their names
    ``selected``    the names of the runs that are asked for now
    ``todo``        those of them without a record of these settings, this text and this recipe
    ``outdated``    those of ``todo`` that have another record, with what is different
    ``failures``    the selected runs that got no record, or whose record is refused, with the cause
    ``records``     all runs of the profile that have a record
    ``unrendered``  those of them whose notebook is to be made
    ``artefacts``   the tables and figures that are to be made of the records
    ``lessons``     the notebooks of the lessons and of the pages beside them
    ==============  ==========================================================================

A plan is not changed: each phase of :mod:`qlstm.workflow.reproduce` makes a new one, with more in
it.
"""

from collections.abc import Iterable
from typing import Any

from qlstm import data
from qlstm.data.storage import lessons, pages
from qlstm.report import tables
from qlstm.study import costs, records
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import ARTEFACTS, FROM_ALL
from qlstm.study.records import reports
from qlstm.study.tasks import TASKS

REPORTED_IN = {"statistics": "reviewers", "gru": "reviewers", "diagnoses": "table_3"}
"""Experiments that have no report of their own, and the report that shows them."""


def make_plan(profile: str, configs: list[ExperimentConfig], *, training: bool) -> dict[str, Any]:
    """The plan before anything is trained; runs that an earlier plan had stay known.

    Args:
        profile: The name of the profile.
        configs: The runs that are asked for.
        training: Whether they are going to be trained, which needs their data.

    Raises:
        DataError: A data set cannot be had.
    """
    folder = reports() / profile
    before = records.planned(folder)["runs"]
    runs = {config.run_id: config for config in configs}
    texts = _texts(configs, training=training)
    todo, outdated, refused = [], {}, {}
    for run_id, config in runs.items():
        if not (folder / "runs" / run_id / "record.json").exists():
            todo.append(run_id)
            continue
        try:
            record = records.load_of(run_id, profile)
        except records.RecordError as error:
            refused[run_id] = str(error)
            continue
        if why := records.outdated(record, config.as_dict(), texts[config.dataset]):
            todo.append(run_id)
            outdated[run_id] = why
    settings = {run_id: config.as_dict() for run_id, config in runs.items()}
    metrics = {name: task.metric.name for name, task in TASKS.items()}
    return {"profile": profile, "metrics": metrics,
            "runs": before | settings, "selected": list(runs),
            "todo": todo, "outdated": outdated, "failures": refused, "records": [],
            "unrendered": [], "artefacts": [],
            "lessons": [f"learn/{path.stem}" for path in [*lessons(), *pages()]]}


def _texts(configs: list[ExperimentConfig], *, training: bool) -> dict[str, str | None]:
    """The sha256 of each data set; None where it is not at hand and not needed."""
    tasks, texts = {}, {}
    for config in configs:
        tasks.setdefault(config.dataset, config.task)
    for name, task in tasks.items():
        if not training and not costs.at_hand(name):
            texts[name] = None
            continue
        try:
            texts[name] = data.load_dataset(name, task).sha256
        except data.DataError as error:
            raise data.DataError(f"{error} (DATASETS=... leaves {name} out)") from None
    return texts


def with_records(plan: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """The plan once training is over: with all records there are, and the notebooks that they lack.

    Args:
        plan: The plan so far.
        found: The records of the profile. Some may be from other machines, or made without a
            notebook; it is made if the data are at hand.
    """
    bare = without_notebook(plan, found)
    return plan | {
        "runs": plan["runs"] | {record["run_id"]: record["config"] for record in bare},
        "records": [record["run_id"] for record in found],
        "unrendered": [record["run_id"] for record in bare
                       if costs.at_hand(record["config"]["dataset"])]}


def without_notebook(plan: dict[str, Any], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the records ``found`` that have no notebook beside them; ``plan`` says in which
    profile."""
    runs = reports() / plan["profile"] / "runs"
    return [record for record in found if not (runs / record["run_id"] / "notebook.html").exists()]


def with_artefacts(plan: dict[str, Any], found: list[dict[str, Any]],
                   only: Iterable[str] | None) -> dict[str, Any]:
    """The plan with the tables and figures that can be made.

    Args:
        plan: The plan so far.
        found: The records of the profile.
        only: The names of tables and figures that are asked for; ``None`` for all.
    """
    wanted = [REPORTED_IN.get(name, name) for name in only or [*ARTEFACTS, *FROM_ALL]]
    return plan | {
        "artefacts": [name for name in dict.fromkeys(wanted) if tables.makeable(found, name)]}
