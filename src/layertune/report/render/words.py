"""How one value reads: the number and its count, the paper's number and the difference, states and marks."""

from __future__ import annotations

from layertune.report.render.sheet import Line
from layertune.report.rounding import as_printed, printed
from layertune.report.values import MARKS, CellValue, State

MISSING = "—"
HOW_TO_READ = (
    "Ours: mean ± sample standard deviation (n seeds; ± standard error of the evaluation split itself, which "
    "no seed changes: of accuracy and Pearson's r; others need the single outputs)."
)
RANKS = (
    "Bold is best, underlined second best, where at least three quarters of the rows are complete and no "
    "partial cell is ahead; cells with † take no part."
)
OTHER = MARKS["other"]
STATE_TEXT: dict[State, str] = {
    "done": MISSING,
    "partial": MISSING,
    "absent": "absent",
    "missing": MISSING,
    "stale": "stale",
    "oom": "OOM",
    "failed": "failed",
    "refused": "refused",
}
STATE_MEANING: dict[State, str] = {
    "partial": "·2/3: two of three runs are done; not ranked",
    "absent": "absent: the run is done and did not record this; the notes say why",
    "missing": f"{MISSING} missing: no run has been recorded",
    "stale": "stale: the record is of an older version and is not used",
    "oom": "OOM: the run ran out of memory",
    "failed": "failed: the run ended with an error",
    "refused": "refused: the model cannot do it, or its records cannot be used; the notes say why",
}
MARK_MEANING = {
    "data": "not the official data: the paper's number is of other rows",
    "mixed": "data or weights of several kinds; a column with this sign is not ranked",
    "majority": "a run scored no better than always answering the most frequent class",
    "twice": "several records answer one run; the notes say which is used",
    "other": "the paper's number is of another model or of other data; no difference is taken",
}


def ours(value: CellValue, chosen: str = "", label: str = "") -> Line:
    """Return our number, or the state that stands in its place.

    Args:
        value: what the records say.
        chosen: title of the row that a best was taken from.
        label: which side of a comparison.
    """
    seeds = [str(seed) for seed in value.values]
    one_each = not value.cell.parts and len(seeds) == len(value.run_ids)
    names = seeds if one_each else list(value.run_ids)
    return Line(
        text=_number(value),
        label=label,
        count=_count(value),
        marks=() if value.mean is None else _marks(value),
        state=value.state,
        rank=value.rank,
        detail=chosen,
        runs=tuple(zip(names, value.run_ids, strict=True)),
    )


def paper(value: CellValue, marks: tuple[str, ...] = ()) -> Line | None:
    """Return the paper's number and how far ours is from it; None where the paper prints none."""
    if value.paper is None:
        return None
    number = value.paper
    text = number.printed
    if number.target is not None and number.target != number.value:
        text += f" → {number.target:.{number.decimals}f}"
    if number.std_printed is not None:
        text += f" ± {number.std_printed}"
    return Line(
        text=text, role="paper", delta=difference(value.delta, value.cell.column.decimals), marks=marks
    )


def difference(delta: float | None, decimals: int) -> str:
    """Return a signed difference, "" for None; what rounds to nothing has no sign."""
    if delta is None:
        return ""
    rounded = as_printed(abs(delta), decimals)
    sign = "" if rounded == 0 else "+" if delta > 0 else "−"
    return f"{sign}{rounded:.{decimals}f}"


def listed(items: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _number(value: CellValue) -> str:
    if value.mean is None:
        return STATE_TEXT[value.state]
    column = value.cell.column
    decimals = column.decimals
    is_count = column.measure != "metric" and value.std == 0  # parameters, layers: the same for every seed
    spread = "" if value.std is None or is_count else f" ± {as_printed(value.std, decimals):.{decimals}f}"
    return f"{as_printed(value.mean, decimals):.{decimals}f}{spread}"


def _marks(value: CellValue) -> tuple[str, ...]:
    """Return the signs of our number; that of the paper's stands beside that one.

    That a score is at the majority class says nothing of a count of parameters or of seconds.
    """
    left_out = ["other"] if value.cell.column.measure == "metric" else ["other", "majority"]
    return tuple(sign for mark, sign in MARKS.items() if mark in value.marks and mark not in left_out)


def _count(value: CellValue) -> str:
    """Say how many: seeds behind a finished number, runs done of those wanted elsewhere."""
    if value.state == "done":
        decimals = value.cell.column.decimals
        split = "" if value.split_error is None else f"; ±{printed(value.split_error, decimals)}"
        return f"({len(value.values)}{split})"
    return f"·{value.n}/{value.wanted}" if value.n else ""
