"""How the judged claims read: a listing for the terminal that is Markdown too, and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from layertune.report.claims import Evidence, Judged
from layertune.report.paired import ASSUMPTIONS, PairedTest, effect
from layertune.report.paper_claims import Status, Verdict
from layertune.report.render.footers import READ_OUTS
from layertune.report.render.words import listed
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


def to_text(
    judged: Sequence[Judged],
    request: Request,
    damaged: Sequence[str] = (),
) -> str:
    """Return the listing, section by section.

    Args:
        judged: the claims.
        request: of which model.
        damaged: files that are no records, a line each.
    """
    lines = [f"# The paper's claims, asked of {model_title(request.model)}", "", *_head(judged, request)]
    sections: dict[str, list[Judged]] = {}
    for one in judged:
        sections.setdefault(section_of(one.claim.section), []).append(one)
    for section in dict.fromkeys(SECTIONS.values()):
        if section in sections:
            lines += ["", f"## {section}", ""]
            lines += [line for one in sections[section] for line in _entry(one, request)]
    if damaged:
        lines += ["", "## Damaged records, not used", "", *(f"- {line}" for line in damaged)]
    lines += ["", "## How to read this", "", *(f"- {text}" for text in (*_reading(request), *ASSUMPTIONS))]
    return "\n".join(lines) + "\n"


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


def _head(judged: Sequence[Judged], request: Request) -> list[str]:
    paper, ours = _counts([one.paper for one in judged]), _counts([one.ours for one in judged])
    begun = sum(bool(one.evidence.run_ids) for one in judged if one.ours.status == "not_enough_runs")
    lines = [
        f"{len(judged)} claims; written by `{request.make('claims')}`. How to read this stands at the end. "
        f"[Tables](../tables/index.html#{request.folder}).",
        "",
        f"- by the paper's own tables {paper['holds']} follow, {paper['does_not_hold']} do not, "
        f"{paper['not_enough_runs']} cannot be told (no table has their numbers)",
        f"- by our records {ours['holds']} hold, {ours['does_not_hold']} do not, {ours['within_noise']} are "
        f"within noise, {ours['not_enough_runs']} lack runs ({begun} of these have some)",
    ]
    called = (("holds", "holding"), ("does_not_hold", "not holding"), ("within_noise", "within noise"))
    for status, words in called:
        if names := [f"`{one.claim.id}`" for one in judged if one.ours.status == status]:
            lines.append(f"- {words}: {', '.join(names)}")
    return lines


def _reading(request: Request) -> list[str]:
    lm, model = model_title(request.lm), model_title(request.model)
    own = "".join(f", {override}" for override in request.overrides)
    return [
        f"{model} stands where the paper says BERT, {lm} where it says GPT-2. Settings: "
        f"train {request.train}, grid {request.grid}, "
        f"protocol {request.protocol or 'as each table says'}{own}.",
        f"Read-out {READ_OUTS[request.readout]}.",
        "Numbers are means over all seeds of a cell, unrounded, in the paper's units. A claim that they "
        "satisfy holds if every test says so too (p < 0.05); one that they violate does not hold if a test "
        "says the opposite (Holm p < 0.05). Beside that the claim is asked task by task of differences "
        "beyond the noise of seeds (an error of 1 % for all that it looks at). What neither settles is "
        "within noise.",
        "A cell that lacks a seed is no evidence: it leaves a claim open unless the finished cells already "
        "settle it. Runs at the majority class (†) learned nothing: what compares with them is left out. The "
        "tests use every pair recorded so far; what speaks least for a claim stands first.",
        "‡ some of the records are not of the official data. Errata are listed in results/paper/errata.yaml.",
        "`ours_best` is the best of the four strategies in each column, `io` the better selection by "
        "input/output similarity (in Table 4 their mean), `ours_mean` the mean of the four. Numbers of a "
        "best are chosen on the evaluation split as in the paper; its tests choose on the first seed and "
        "compare on the others.",
        "`make plan` names the missing runs; `make claims JSON=1` prints all numbers, tests and run ids.",
    ]


def _entry(one: Judged, request: Request) -> list[str]:
    """Return the lines of one claim."""
    claim = one.claim
    mark = " ‡" if one.evidence.others else ""
    lines = [f"- **{WORDS[one.ours.status]}{mark}** {claim.says} (`{claim.id}`, {claim.section})"]
    erratum = f" [erratum {claim.erratum}]" if claim.erratum else ""
    reason = "" if one.paper.status == "not_enough_runs" else f"; {one.paper.reason}"
    follows = OF_THE_PAPER[one.paper.status]
    if claim.tables:
        lines.append(f"  - paper, {_tables(claim.tables)}: {follows}{reason}{erratum}")
    if one.evidence.run_ids and (reason := _reason(one)):
        lines.append(f"  - records: {reason}")
    if one.elsewhere is None:
        lines.append(f"  - {_runs(one.evidence)}")
    else:
        lines.append(f"  - {one.elsewhere.source}: {one.elsewhere.verdict.reason}")
        lines += [f"  - {sentence}" for sentence in one.elsewhere.told]
    if claim.choice:
        lines.append(f"  - read as: {claim.choice}")
    if one.evidence.absent:
        rows = ", ".join(one.evidence.absent)
        lines.append(f"  - {request.model} has no rows {rows}: this claim stays open for it")
    lines += [f"  - {notice}" for notice in _first(one.evidence.notices)]
    if one.evidence.learned_nothing:
        lines.append(
            f"  - † left out, at the majority class: {', '.join(_first(one.evidence.learned_nothing))}"
        )
    if one.tests:
        lines += _tests(one.tests)
    elif one.evidence.run_ids:
        lines.append(f"  - no test: {one.no_test}")
    if one.tests and len(one.evidence.split_errors) in range(1, SHOWN + 1):
        errors = ", ".join(f"{task} {printed(error, 1)}" for task, error in one.evidence.split_errors.items())
        lines.append(f"  - standard error of the evaluation split itself, which no seed changes: {errors}")
    won, lost, looks = one.by_task
    if won or lost:
        lines.append(f"  - task by task, beyond the noise of seeds: {won} for it, {lost} against, of {looks}")
    return lines


def _tests(tests: Sequence[PairedTest]) -> list[str]:
    """Return the tests that say least for the claim, and a count of the others."""
    real = [test for test in tests if test.p is not None]
    lines = [f"  - test: {_test(test)}" for test in real[:SHOWN]]
    if single := len(tests) - len(real):
        lines.append(f"  - {_counted(single, 'comparison')} with a single pair of runs: no test can decide")
    if len(real) > SHOWN:
        decided = [answer for test in real if (answer := test.decides()) is not None]
        lines.append(
            f"  - {_counted(len(real) - SHOWN, 'more test')}; {len(decided)} of all {len(real)} decided "
            f"(Holm p < 0.05), {decided.count(True)} for the claim and {decided.count(False)} against it"
        )
    return lines


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
        text += f"; ‡ {listed(list(tasks))}: {status}, not the official data"
    return text


def _test(test: PairedTest) -> str:
    """Return one test in one line."""
    name = f"{test.row} - {test.other}" if test.other else test.row
    where = f" in {test.where}" if test.where else ""
    claimed = f" (claimed {test.against:+g})" if test.against else ""
    pairs = f"{_counted(test.pairs, 'pair')} of {_counted(test.tasks, 'task')}"
    chosen = "; chosen on the first seed, tested on the others" if test.chosen else ""
    return f"{name}{where}: {effect(test)}, Holm {test.p_holm:.2g}{claimed}; {pairs}{chosen}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


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


def _first(items: Sequence[str]) -> list[str]:
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
