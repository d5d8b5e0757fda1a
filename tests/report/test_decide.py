"""Whether an answer is more than noise: on random records, by tests on average, and task by task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from layertune.config.groups import CONFIG_DIR
from layertune.report.decide import COUNTED, decide
from layertune.report.paper_claims import Claim, ClaimColumn, load_claims, parts_of

CLAIMS = {claim.id: claim for claim in load_claims(CONFIG_DIR.parent / "results" / "paper")}
BY_CHANCE = [claim for claim in CLAIMS.values() if not {c.metric for c in claim.columns} <= set(COUNTED)]
SEEDS = (0, 42, 100)


class Made:
    """Values per row, column and seed, as tables of ours have them."""

    def __init__(
        self,
        values: Mapping[tuple[str, ClaimColumn], list[float]],
        nothing: set[tuple[str, str]] = frozenset(),
    ) -> None:  # type: ignore[assignment]
        self.seeds = {key: dict(zip(SEEDS, own, strict=False)) for key, own in values.items()}
        runs = np.array(list(values.values()))
        self.means = dict(zip(values, runs.mean(1).tolist(), strict=True))
        self.stds = dict(zip(values, runs.std(1).tolist(), strict=True)) if runs.shape[1] > 1 else {}
        self.nothing = nothing  # rows and tasks that learned nothing

    def __call__(self, row: str, task: str, metric: str, model: str) -> float | None:
        key = (row, ClaimColumn(task, metric.removesuffix("_std"), model))
        if key in self.means and (row, task) in self.nothing:
            return math.nan
        return (self.stds if metric.endswith("_std") else self.means).get(key)

    def per_seed(self, row: str, column: ClaimColumn) -> dict[str, dict[int, float]]:
        found = self.seeds.get((row, column))
        return {} if found is None or (row, column.task) in self.nothing else {column.task: found}


def rows_of(claim: Claim) -> list[str]:
    """Return the rows that a claim reads, best and mean ones by their parts."""
    given = claim.operands
    over = given.get("over", [])
    named = [*given.get("rows", ()), given.get("row"), *([over] if isinstance(over, str) else over)]
    return list(dict.fromkeys(part for row in named if row for part in parts_of(row)[1]))


def random_values(claim: Claim, rng: np.random.Generator, seeds: int = len(SEEDS)) -> Made:
    """Return runs that differ by chance alone, around the difference that a claim states if any."""
    rows, given = rows_of(claim), claim.operands
    noise = rng.normal(50.0, 1.0, (len(rows), len(claim.columns), seeds))
    margins = given.get("at_least", 0.0)
    for place, row in enumerate(rows):
        if claim.kind == "bounded":
            noise[place] += margins - 50.0
        elif claim.kind == "difference" and row in {
            part for name in given["over"] for part in parts_of(name)[1]
        }:
            noise[place] -= np.broadcast_to(margins, len(claim.columns))[:, None]
        elif claim.kind == "difference_of_row_averages" and row in given["over"]:
            noise[place] -= np.broadcast_to(margins, len(given["over"]))[given["over"].index(row)]
    keys = [(row, column) for row in rows for column in claim.columns]
    return Made(dict(zip(keys, noise.reshape(-1, seeds).tolist(), strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "worlds"), [(1, 30), (3, 40), pytest.param(3, 200, marks=pytest.mark.whole)]
)
def test_of_the_claims_on_random_records_no_more_than_one_in_twenty_is_decided(
    seeds: int, worlds: int
) -> None:
    rng = np.random.default_rng(16)
    found = {
        claim.id: Counter(
            decide(claim, random_values(claim, rng, seeds)).verdict.status for _ in range(worlds)
        )
        for claim in BY_CHANCE
    }
    counts = sum(found.values(), Counter())
    assert counts.total() == worlds * len(BY_CHANCE)
    assert counts["holds"] + counts["does_not_hold"] <= 0.05 * counts.total()
    of_one_seed = sum(claim.kind == "separated" for claim in BY_CHANCE)  # they ask for a spread over seeds
    assert counts["not_enough_runs"] == (worlds * of_one_seed if seeds == 1 else 0)
    most = worlds * 0.05 + 3.3 * (worlds * 0.05 * 0.95) ** 0.5  # of a single claim: 5 %, and what chance adds
    worst = max(found, key=lambda name: found[name]["holds"] + found[name]["does_not_hold"])
    assert max(found[worst]["holds"], found[worst]["does_not_hold"]) <= most, (worst, found[worst])


FOUR = ("high_k", "low_k", "block_high", "block_low")


def put(claim: Claim, **rows: float | list[float]) -> dict[tuple[str, ClaimColumn], list[float]]:
    """Return values around a number per row, or per row and column; seeds lie half a point to each side."""
    made = {}
    for row in rows_of(claim):
        given = rows.get(row, 50.0)
        for place, column in enumerate(claim.columns):
            mean = given[place] if isinstance(given, list) else given
            made[row, column] = [mean - 0.5, mean, mean + 0.5]
    return made


def status(
    claim: Claim, values: Mapping[tuple[str, ClaimColumn], list[float]], **kwargs: set[tuple[str, str]]
) -> str:
    return decide(claim, Made(values, **kwargs)).verdict.status


def test_a_difference_beyond_noise_is_decided_and_one_within_it_is_not() -> None:
    claim = CLAIMS["low_bleu_over_full"]  # one task: leads by at least 1.4
    assert status(claim, put(claim, low_k=55.0)) == "holds"
    assert status(claim, put(claim, low_k=46.0)) == "does_not_hold"
    assert status(claim, put(claim, low_k=51.5)) == status(claim, put(claim, low_k=51.3)) == "within_noise"


def test_a_claim_on_average_holds_by_its_means_and_its_test_together() -> None:
    claim = CLAIMS["cosine_beats_euclidean"]  # two pairs of rows on four tasks
    ahead = [52.0, 52.1, 51.8, 52.2]
    assert status(claim, put(claim, high_k=ahead, low_k=ahead)) == "holds"
    behind = [48.0, 48.1, 47.8, 48.2]
    assert status(claim, put(claim, high_k=ahead, low_k=behind)) == "does_not_hold"
    scattered = [56.0, 50.1, 50.1, 50.1]  # ahead everywhere, and by no more than its own scatter
    assert status(claim, put(claim, high_k=ahead, low_k=scattered)) == "within_noise"


def test_one_task_lost_beyond_the_noise_of_seeds_settles_what_an_average_cannot() -> None:
    claim = CLAIMS["peft_beaten_single"]
    eight = [53.0] * 7
    assert status(claim, put(claim, **{row: [*eight, 49.9] for row in FOUR})) == "within_noise"
    decision = decide(claim, Made(put(claim, **{row: [*eight, 40.0] for row in FOUR})))
    assert decision.verdict.status == "does_not_hold"
    assert decision.by_task == (4 * 4 * 7, 4 * 4, 4 * 4 * 8)


def test_wins_are_counted_where_they_are_beyond_noise() -> None:
    claim = CLAIMS["wins_7_of_8_single"]
    assert status(claim, put(claim, low_k=60.0)) == "holds"
    assert status(claim, put(claim, low_k=[60.0] * 6 + [50.2, 49.8])) == "within_noise"
    assert status(claim, put(claim, low_k=60.0, lora=[50.0] * 6 + [70.0, 70.0])) == "does_not_hold"


def test_no_strategy_is_universal_only_where_each_is_beaten_beyond_noise() -> None:
    claim = CLAIMS["no_strategy_is_universal"]
    own = {row: [50.0] * 15 for row in FOUR}
    assert status(claim, put(claim, **own)) == "within_noise"
    for place, row in enumerate(FOUR):
        own[row][place] += 10
    assert status(claim, put(claim, **own)) == "holds"
    assert status(claim, put(claim, high_k=60.0)) == "does_not_hold"


def test_a_row_that_is_best_by_chance_on_one_seed_is_tested_on_the_others() -> None:
    claim = CLAIMS["better_out_of_domain"]  # the best of four strategies against full fine-tuning, four tasks
    values = put(claim)
    for place, column in enumerate(claim.columns):
        values[FOUR[place], column] = [
            70.0,
            49.0 + place / 2,
            49.5 + place / 2,
        ]  # chosen, and then 49.25, 49.75 ...
    decision = decide(claim, Made(values))
    (test,) = decision.tests
    assert test.chosen and test.pairs == 4 * 2
    # against full's 50 and 50.5: -1, -0.5, 0, +0.5 on the two seeds each
    assert test.mean == pytest.approx(-0.25)
    assert decision.verdict.status == "within_noise"
    assert decision.verdict.numbers[f"ours_best - full, {claim.columns[0]}"] == pytest.approx(
        (70 + 49 + 49.5) / 3 - 50
    )


def test_the_best_of_several_averages_is_chosen_on_the_first_seed_too() -> None:
    claim = CLAIMS["close_to_full_single"]
    values = put(claim)
    for column in claim.columns:
        values["block_low", column] = [60.0, 50.0, 50.0]
        values["high_k", column] = [49.0, 51.0, 52.0]
    (test,) = decide(claim, Made(values)).tests
    assert (test.row, test.chosen, test.pairs) == ("block_low", True, 16)
    assert (test.mean, test.against) == (pytest.approx(-0.25), -0.7)  # 50 against 50 and 50.5


def test_a_best_with_a_single_seed_has_its_number_and_no_test() -> None:
    claim = CLAIMS["better_out_of_domain"]
    decision = decide(claim, Made({key: own[:1] for key, own in put(claim, low_k=60.0).items()}))
    assert decision.tests == () and decision.verdict.numbers and "first seed" in decision.no_test
    assert decision.verdict.status == "within_noise"


def test_runs_that_learned_nothing_are_left_out_of_numbers_and_tests() -> None:
    claim = CLAIMS["cosine_beats_euclidean"]
    ahead = [52.0, 52.1, 51.8, 30.0]
    values = put(claim, high_k=ahead, low_k=ahead)
    assert status(claim, values) == "does_not_hold"
    decision = decide(claim, Made(values, {("high_k", "mrpc"), ("low_k", "mrpc")}))
    assert decision.verdict.status == "holds"
    assert {test.tasks for test in decision.tests} == {3}
    assert decision.verdict.reason == "6 of 6 comparisons hold"
    everything = {(row, column.task) for row in ("high_k", "low_k") for column in claim.columns}
    assert status(claim, values, nothing=everything) == "not_enough_runs"


def test_an_open_claim_stays_open_however_clear_its_tests_are() -> None:
    claim = CLAIMS["cosine_beats_euclidean"]
    values = put(claim, high_k=60.0, low_k=60.0)
    del values["low_k", claim.columns[0]]
    assert status(claim, values) == "not_enough_runs"


def test_what_one_finished_cell_violates_by_chance_is_no_verdict_while_others_are_missing() -> None:
    claim = CLAIMS["cosine_beats_euclidean"]
    values = {key: own for key, own in put(claim, low_k=49.9).items() if key[1] == claim.columns[0]}
    assert status(claim, values) == "not_enough_runs"


def test_counts_are_decided_without_a_test() -> None:
    claim = CLAIMS["fewer_parameters"]
    decision = decide(
        claim,
        Made(
            {key: [own[1]] for key, own in put(claim, **dict.fromkeys(FOUR, 40.0)).items()}
            | {("ours_mean", claim.columns[0]): [40.0]}
        ),
    )
    assert (decision.verdict.status, decision.no_test) == ("holds", "counts do not vary by chance")


def test_a_claim_that_needs_nearly_all_may_lose_a_pair() -> None:
    claim = replace(CLAIMS["partial_beaten_e2e"], columns=CLAIMS["partial_beaten_e2e"].columns[:1])
    most = put(claim, **dict.fromkeys(FOUR, 60.0))
    assert status(claim, most) == "holds"
    assert status(claim, put(claim, **dict.fromkeys(FOUR, 60.0), lift=70.0, recap=70.0)) == "does_not_hold"


class OneTaskOfAnAverage:
    """An average of which a single task has runs so far."""

    def __call__(self, row: str, task: str, metric: str, model: str) -> float | None:
        return None

    def per_seed(self, row: str, column: ClaimColumn) -> dict[str, dict[int, float]]:
        return {"sst2": {0: 61.0, 42: 62.5} if row == "low_k" else {0: 60.0, 42: 60.5}}


def test_an_average_of_which_one_task_has_runs_is_tested_within_that_task() -> None:
    claim = Claim(
        id="a",
        section="§1",
        says="",
        kind="best_of_rows",
        tables=(1,),
        columns=(ClaimColumn("average", "mean"),),
        operands={"row": "low_k", "over": ["full"]},
    )
    decision = decide(claim, OneTaskOfAnAverage())
    assert decision.verdict.status == "not_enough_runs"
    # differences of 1 and 2 points: 1.5, and a standard error of 0.5 with one degree of freedom
    (test,) = decision.tests
    assert (test.units, test.mean, test.high) == ("seeds", 1.5, pytest.approx(1.5 + 0.5 * 12.7062, abs=1e-3))
