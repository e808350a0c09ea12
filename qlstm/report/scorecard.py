"""The scorecard: each claim of the paper, the evidence in the records, and where it holds.

A claim is judged in the settings that are within its conditions. Where runs at the paper's scale
say something, the reduced ones are not asked. What no run can say is not tested: that is a verdict
too, and says why.
"""

import pandas as pd

from qlstm.report.claims import CLAIMS, Claim
from qlstm.report.evidence import Answer, View
from qlstm.report.names import in_parts

UNTESTED = "not tested"
STANDINGS = {"everywhere": "hold in every setting", "partly": "hold in some of the settings",
             "nowhere": "hold in none", "not tested": "are not tested at this scale"}
"""How a claim can stand, and how that is said of several."""
TOO_SMALL = {"quick": "hardly trained", "paper": "needs the paper's scale"}
"""Why runs are not enough, by what the claim needs."""


def scorecard(records: list[dict], profile: str) -> pd.DataFrame:
    """What the records of a profile say on every claim.

    Args:
        records: as :func:`qlstm.study.records.load_all` returns them.
        profile: its name: smoke, quick or paper.

    Returns:
        A row a claim: ``claim`` (its key), ``sentence``, ``source``, ``condition`` (of which
        settings it speaks), ``verdict`` ("holds in 3 of 4 settings", "not tested"), ``standing`` (a
        key of :data:`STANDINGS`), ``holds`` and ``settings`` (in how many it holds, and in how many
        it was judged), ``scale`` (paper or reduced: what the evidence is from; "": there is none)
        and ``evidence``: what is against it, what is for it, what was not judged and why.
    """
    view = View(records)
    return pd.DataFrame([_judged(claim, view, profile) for claim in CLAIMS])


def _judged(claim: Claim, view: View, profile: str) -> dict[str, str | int]:
    answers = list(claim.judge(view))
    judged = [answer for answer in answers if answer.holds is not None]
    used = [answer for answer in judged if answer.paper_scale]
    if used:
        answers = used
    elif claim.needs == "any" or (claim.needs == "quick" and profile != "smoke"):
        used = judged
    else:
        answers = [answer._replace(holds=None, because=answer.because or TOO_SMALL[claim.needs])
                   for answer in answers]
    against = {answer.setting for answer in used if not answer.holds}
    settings = {answer.setting for answer in used}
    holds = len(settings - against)
    at_scale = all(answer.paper_scale and "(reduced" not in answer.setting for answer in used)
    return {"claim": claim.name, "sentence": claim.sentence, "source": claim.source,
            "condition": claim.condition, "verdict": _verdict(holds, len(settings)),
            "standing": _standing(holds, len(settings)), "holds": holds,
            "settings": len(settings),
            "scale": ("paper" if at_scale else "reduced") if used else "",
            "evidence": _told(answers)}


def _verdict(holds: int, settings: int) -> str:
    return f"holds in {holds} of {settings} setting{'s' * (settings > 1)}" if settings else UNTESTED


def _standing(holds: int, settings: int) -> str:
    if not settings:
        return "not tested"
    return "everywhere" if holds == settings else "partly" if holds else "nowhere"


def _told(answers: list[Answer]) -> str:
    """The evidence in words, what is against the claim first; a setting's name stands once."""
    parts = []
    for said, holds in (("Against it: ", False), ("For it: ", True), ("Not judged: ", None)):
        chosen = [answer for answer in answers if answer.holds is holds]
        by_setting = {answer.setting: [] for answer in chosen}
        for answer in chosen:
            by_setting[answer.setting].append(
                answer.evidence + (f" ({answer.because})" if answer.because else ""))
        if chosen:
            parts.append(said + ". ".join(f"{_short(name)}: {'; '.join(told)}"
                                          for name, told in by_setting.items()) + ".")
    return " ".join(parts)


def _short(name: str) -> str:
    """The name of a setting without the digest of its text."""
    setting, scale = in_parts(name)
    return f"{setting} (reduced: {scale})" if scale else setting


def counts(card: pd.DataFrame) -> str:
    """How many claims stand how, in a sentence.

    Args:
        card: of :func:`scorecard`.

    Example:
        "Of 31 claims, 12 hold in every setting, 1 holds in none, 18 are not tested at this scale."
    """
    found = card["standing"].value_counts()
    parts = []
    for standing, words in STANDINGS.items():
        if number := found.get(standing, 0):
            one = {"hold ": "holds ", "are ": "is "}
            verb = next(v for v in one if words.startswith(v))
            parts.append(f"{number} {words.replace(verb, one[verb], 1) if number == 1 else words}")
    return f"Of {len(card)} claims, {', '.join(parts)}."
