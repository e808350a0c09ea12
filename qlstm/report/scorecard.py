"""The scorecard: each claim of the paper, the evidence in the records, and whether it holds.

A claim holds if it holds in every setting that says anything. Where runs at the paper's scale say
something, the reduced ones are not asked.
"""

from collections import defaultdict

import pandas as pd

from qlstm.report.claims import CLAIMS, Claim
from qlstm.report.evidence import Answer, View

HOLDS, FALSE, UNTESTED = "holds", "does not hold", "not tested at this scale"


def scorecard(records: list[dict], profile: str) -> pd.DataFrame:
    """What the records of a profile say on every claim.

    Args:
        records: as :func:`qlstm.study.records.load_all` returns them.
        profile: its name: smoke, quick or paper.

    Returns:
        A row a claim: ``claim``, ``sentence``, ``source``, ``verdict`` (holds, does not hold, not
        tested at this scale), ``scale`` (paper or reduced: what the evidence is from) and
        ``evidence``, setting by setting.
    """
    view = View(records)
    return pd.DataFrame([_judged(claim, view, profile) for claim in CLAIMS])


def _judged(claim: Claim, view: View, profile: str) -> dict[str, str]:
    answers = [answer for answer in claim.judge(view) if answer.holds is not None]
    at_scale = [answer for answer in answers if answer.paper_scale]
    used = at_scale or answers
    enough = at_scale or claim.needs == "any" or (claim.needs == "quick" and profile != "smoke")
    verdict, scale = UNTESTED, ""
    if used:
        reduced = not at_scale or any("(reduced" in answer.setting for answer in used)
        scale = "reduced" if reduced else "paper"
        if enough:
            verdict = HOLDS if all(answer.holds for answer in used) else FALSE
    return {"claim": claim.name, "sentence": claim.sentence, "source": claim.source,
            "verdict": verdict, "scale": scale, "evidence": _told(used, bool(enough))}


def _told(answers: list[Answer], judged: bool) -> str:
    """The evidence in words; where it is ``judged``, what speaks against the claim is marked."""
    by_setting = defaultdict(list)
    for answer in answers:
        against = " (against)" if judged and not answer.holds else ""
        by_setting[answer.setting].append(answer.evidence + against)
    return ". ".join(f"{name}: {'; '.join(told)}" for name, told in by_setting.items())
