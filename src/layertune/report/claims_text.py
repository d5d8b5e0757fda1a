"""How the judged claims read: a listing for the terminal that is Markdown too, and JSON.

`render/templates/claims.md.jinja` is the listing; here is what it asks for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from layertune.report.claims import Evidence, Judged
from layertune.report.paired import ASSUMPTIONS, PairedTest, effect
from layertune.report.paper_claims import Status, Verdict
from layertune.report.render.formats import to_plain_text
from layertune.report.render.words import READ_OUTS, counted, listed
from layertune.report.request import Request
from layertune.report.rounding import printed
from layertune.report.spec import model_title

SHOWN = 3  # tests, run ids and notices that a claim prints; JSON has all
WORDS: dict[Status, str] = {
    "holds": "HOLDS",
    "does_not_hold": "DOES NOT HOLD",
    "within_noise": "WITHIN NOISE",
    "not_enough_runs": "NOT ENOUGH RUNS",
}
OF_THE_PAPER: dict[Status, str] = {  # does its text follow from its tables?
    "holds": "follows",
    "does_not_hold": "does not follow",
    "within_noise": "cannot be told",
    "not_enough_runs": "cannot be told, figures print no numbers",
}
SECTIONS = {
    "Abstract": "Abstract, highlights, introduction",
    "Highlights": "Abstract, highlights, introduction",
    "§1": "Abstract, highlights, introduction",
    "§5.1": "§5.1 Single sentences",
    "§5.2": "§5.2 Sentence pairs",
    "§5.3": "§5.3 Generation",
    "§5.4": "§5.4 Cost",
    "§5.5": "§5.5 Which layers for which task",
    "§6": "§6 Across domains",
    "§7": "§7 Ablations",
}


def to_text(judged: Sequence[Judged], request: Request, damaged: Sequence[str] = (), first: str = "") -> str:
    """Return the listing, section by section.

    Args:
        judged: the claims.
        request: of which model.
        damaged: files that are no records, a line each.
        first: what a reader asks first (`summary.three_numbers`); "" leaves it out.
    """
    sections: dict[str, list[Judged]] = {title: [] for title in SECTIONS.values()}
    for one in judged:
        sections[section_of(one.claim.section)].append(one)
    return to_plain_text(
        "claims.md",
        judged=judged,
        sections={title: found for title, found in sections.items() if found},
        request=request,
        model=model_title(request.model),
        lm=model_title(request.lm),
        readout=READ_OUTS[request.readout],
        paper=_counts([one.paper for one in judged]),
        records=_counts([one.ours for one in judged]),
        begun=sum(bool(one.evidence.run_ids) for one in judged if one.ours.status == "not_enough_runs"),
        verdicts=WORDS,
        of_the_paper=OF_THE_PAPER,
        shown=SHOWN,
        damaged=damaged,
        first=first,
        assumptions=ASSUMPTIONS,
        **{"few": _few, "reason": _reason, "runs": _runs, "tables": _tables, "told": _test},
        **{"decided": _decided, "counted": counted, "printed": printed},
    )


def to_json(judged: Sequence[Judged], request: Request) -> str:
    """Return everything that is known about every claim."""
    tree = {
        "request": dataclasses.asdict(request),
        "summary": {"paper": _counts([one.paper for one in judged])}
        | {"records": _counts([one.ours for one in judged])},
        "claims": [_tree(one) for one in judged],
        "assumptions": list(ASSUMPTIONS),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def section_of(section: str) -> str:
    """Return the heading under which a claim stands, by the first place that makes it."""
    first = section.split(", ")[0]
    return SECTIONS.get(first) or SECTIONS[first.split(".")[0]]


def _reason(one: Judged) -> str:
    """Return the reason of our verdict; what is missing only where that is the smaller part."""
    done, wanted = one.evidence.runs
    found = one.ours.reason.partition("missing: ")[0]
    return one.ours.reason if 2 * done >= wanted > 0 else found.removesuffix("; ")


def _runs(evidence: Evidence) -> str:
    """Say how many runs there are, of which tasks, how the cells stand, and whose data it is."""
    done, wanted = evidence.runs
    text = f"runs: {done} of {wanted}"
    if evidence.run_ids:
        each = ", ".join(f"{task} {count}" for task, count in evidence.tasks.items())
        text += f" ({each if len(evidence.tasks) <= SHOWN else f'{len(evidence.tasks)} tasks'})"
    states = ", ".join(f"{count} {state}" for state, count in evidence.states.items())
    text += f"; cells: {states}"
    for status, tasks in evidence.others.items():
        text += f"; ‡ {listed(tasks)}: {status}, not the official data"
    return text


def _test(test: PairedTest) -> str:
    name = f"{test.row} - {test.other}" if test.other else test.row
    where = f" in {test.where}" if test.where else ""
    claimed = f" (claimed {test.against:+g})" if test.against else ""
    pairs = f"{counted(test.pairs, 'pair')} of {counted(test.tasks, 'task')}"
    chosen = "; chosen on the first seed, tested on the others" if test.chosen else ""
    return f"{name}{where}: {effect(test)}, Holm {test.p_holm:.2g}{claimed}; {pairs}{chosen}"


def _decided(tests: Sequence[PairedTest]) -> list[bool]:
    return [answer for test in tests if (answer := test.decides()) is not None]


def _tables(tables: Sequence[int | str]) -> str:
    """Return "Tables 1, 2 and Figure 4"."""
    numbers = [str(table) for table in tables if isinstance(table, int)]
    figures = [str(table).removeprefix("figure") for table in tables if isinstance(table, str)]
    parts = [
        f"{noun}{'s' if len(found) > 1 else ''} {listed(found)}"
        for noun, found in (("Table", numbers), ("Figure", figures))
        if found
    ]
    return listed(parts)


def _few(items: Sequence[str]) -> list[str]:
    more = len(items) - SHOWN
    return [*items[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {status: sum(verdict.status == status for verdict in verdicts) for status in WORDS}


def _tree(one: Judged) -> Mapping[str, Any]:
    claim = one.claim
    return {
        **{key: getattr(claim, key) for key in ("id", "section", "says", "kind", "erratum", "choice")},
        "tables": list(claim.tables),
        "paper": dataclasses.asdict(one.paper),
        "records": dataclasses.asdict(one.ours),
        "evidence": dataclasses.asdict(one.evidence),
        "tests": [dataclasses.asdict(test) | {"decides": test.decides()} for test in one.tests],
        "no_test": one.no_test,
        "elsewhere": None if one.elsewhere is None else dataclasses.asdict(one.elsewhere),
    }
