"""Every claim on records made to satisfy it, violate it, or lack a seed; and what stands behind a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from claim_worlds import PARTS, World, rows_of, world_of

from layertune.config.groups import CONFIG_DIR
from layertune.records import Record
from layertune.report.claims import Judged, judge_all
from layertune.report.index import RecordIndex
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import ClaimColumn, load_claims
from layertune.report.request import Request

CLAIMS = {claim.id: claim for claim in load_claims(CONFIG_DIR.parent / "results" / "paper")}
BERT = Request()


def judged(name: str, paper: PaperTables, *records: Record, request: Request = BERT) -> Judged:
    (one,) = judge_all([CLAIMS[name]], paper, request, RecordIndex(records))
    return one


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.columns])
def test_records_that_satisfy_a_claim_violate_it_or_lack_a_seed_give_the_three_verdicts(
    name: str, paper: PaperTables
) -> None:
    claim = CLAIMS[name]
    good, bad = world_of(claim, holds=True), world_of(claim, holds=False)
    first = PARTS.get(rows_of(claim)[0], rows_of(claim))[0]
    complete = good.records(BERT)
    lacking = good.records(BERT, without=(first, 100))
    assert len(lacking) < len(complete)
    # that strategies do not differ cannot be shown: a spread within that of the seeds is within noise
    violated = "within_noise" if claim.kind == "separated" else "does_not_hold"
    found = {
        "holds": judged(name, paper, *complete),
        violated: judged(name, paper, *bad.records(BERT)),
        "not_enough_runs": judged(name, paper, *lacking),
    }
    for status, one in found.items():
        assert one.ours.status == status, one.ours.reason
    wanted = found["holds"].evidence.runs[1]
    assert set(found["holds"].evidence.states) == {"done"}
    assert found["holds"].evidence.runs == (wanted, wanted)
    lacks = found["not_enough_runs"].evidence
    assert lacks.states["partial"] > 0
    assert lacks.runs[0] < lacks.runs[1] == wanted


def test_another_model_stands_where_the_paper_says_bert(paper: PaperTables) -> None:
    world = World(CLAIMS["mr_wants_high"])
    for row, number in {"high_k": 60, "low_k": 50, "block_high": 59.5, "block_low": 50}.items():
        world.put(row, number)
    request = Request(model="gte_small", overrides=("train.epochs=3",))
    one = judged("mr_wants_high", paper, *world.records(request), request=request)
    assert one.ours.status == "holds"
    assert one.claim.columns == (ClaimColumn("mr", "accuracy", "gte_small"),)
    assert one.ours.numbers["high_k - block_high, gte_small/mr accuracy"] == pytest.approx(0.5)
    assert one.paper.numbers["high_k - block_low, bert/mr accuracy"] == pytest.approx(0.4)  # 88.1 and 87.7
    assert judged("mr_wants_high", paper, *world.records(request)).evidence.runs == (0, 12)


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("parameters_cut_bert", "ours_mean / full, bert/average trainable_parameters", 0.25),
        ("speedup", "ours_mean bert/average speedup", 1.51),
        ("nearly_as_fast_as_lora", "ours_mean - lora, bert/average speedup", -0.09),
        ("slimfit_beaten_e2e", "block_low - slimfit, gpt2/e2e nist", 0.15),
        ("low_bleu_over_full", "low_k - full, gpt2/e2e bleu", 1.41),
        ("cross_domain_close_to_full", "ours_best - full, bert/sst2_imdb accuracy", -0.99),
        ("strategies_differ_beyond_noise", "largest std, bert/cola accuracy", 1.0),
        ("lora_is_fastest", "lora - io, bert/average speedup", 10.0),
    ],
)
def test_records_are_read_in_the_units_of_the_paper(
    paper: PaperTables, name: str, number: str, value: float
) -> None:
    one = judged(name, paper, *world_of(CLAIMS[name], holds=True).records(BERT))
    assert one.ours.numbers[number] == pytest.approx(value, abs=1e-6)


def changed(records: list[Record], how: str) -> list[Record]:
    """Return records of which the first is stale, failed or unproven, or all are of other data."""
    first, *rest = records
    if how == "stale":
        first = replace(first, versions=replace(first.versions, method=0))
    elif how == "failed":
        first = replace(first, status="failed", metrics=None, error="Traceback\nValueError: loss is nan")
    elif how == "refused":
        assert first.checks is not None
        first = replace(first, checks=replace(first.checks, frozen_unchanged=False))
    elif how == "one of other data":
        assert first.data is not None
        first = replace(first, data=replace(first.data, status="subset", fingerprint_sha256="other"))
    return [first, *rest]


@pytest.mark.parametrize(
    ("how", "states", "notice"),
    [
        ("stale", {"done": 3, "partial": 1}, "{} is of older versions"),
        ("failed", {"done": 3, "partial": 1}, "{} failed: ValueError: loss is nan"),
        ("refused", {"done": 3, "partial": 1}, "{} is refused: frozen_unchanged is false"),
        ("one of other data", {"refused": 4}, "refused: MR (acc) holds data of several kinds"),
    ],
)
def test_what_is_no_evidence_leaves_a_claim_open_and_is_named(
    paper: PaperTables, how: str, states: dict[str, int], notice: str
) -> None:
    records = world_of(CLAIMS["mr_wants_high"], holds=True).records(BERT)
    one = judged("mr_wants_high", paper, *changed(records, how))
    assert one.ours.status == "not_enough_runs"
    assert one.evidence.states == states
    assert notice.format(records[0].run_id) in one.evidence.notices


def test_data_that_are_not_official_are_named_by_task(paper: PaperTables) -> None:
    records = world_of(CLAIMS["mr_wants_high"], holds=True).records(BERT)
    own = [
        replace(record, data=replace(record.data, status="own-split")) for record in records if record.data
    ]
    one = judged("mr_wants_high", paper, *own)
    assert one.ours.status == "holds"
    assert one.evidence.others == {"own-split": ("mr",)}
    assert one.evidence.tasks == {"mr": 12}


def test_rows_that_a_smaller_model_does_not_have_are_named(paper: PaperTables) -> None:
    request = Request(model="minilm_l6")  # 6 layers: k from 1 to 5
    name = "low_beats_high_for_every_k_sst2"
    records = world_of(CLAIMS[name], holds=True).records(request)
    one = judged(name, paper, *records, request=request)
    assert one.ours.status == "not_enough_runs"
    assert set(one.evidence.absent) == {f"{row}@{k}" for row in ("low_k", "high_k") for k in range(6, 12)}
    assert one.evidence.states == {"done": 10}


def test_seeds_of_tasks_are_paired_and_a_best_keeps_those_that_did_not_choose_it(paper: PaperTables) -> None:
    world = World(CLAIMS["beats_full_on_mr_trec"])
    mr, trec = world.claim.columns
    world.put("full", 50)
    for row in PARTS["ours_best"]:
        world.put(row, 40)
    world.put("high_k", 52, mr)
    world.put("block_low", 53, trec)
    (test,) = judged("beats_full_on_mr_trec", paper, *world.records(BERT)).tests
    assert (test.row, test.other, test.tasks, test.pairs, test.units) == ("ours_best", "full", 2, 4, "tasks")
    assert (test.mean, test.chosen) == (pytest.approx(2.5), True)
    # +2 and +3: half a point of standard error, of Student's t with one degree of freedom
    assert test.high == pytest.approx(2.5 + 12.7062 / 2, abs=1e-3)


def test_a_best_that_a_table_prints_was_chosen_on_all_seeds_and_is_tested_without_the_first(
    paper: PaperTables,
) -> None:
    claim = CLAIMS["cross_domain_close_to_full"]  # Table 5 has a row of its own
    (test,) = judged(claim.id, paper, *world_of(claim, holds=True).records(BERT)).tests
    assert (test.chosen, test.tasks, test.pairs) == (True, 4, 8)


def test_cells_at_the_majority_class_take_part_in_no_verdict_and_are_named(paper: PaperTables) -> None:
    claim = CLAIMS["cola_wants_blocks"]
    records = world_of(claim, holds=False).records(BERT)
    assert judged(claim.id, paper, *records).ours.status == "does_not_hold"
    nothing = [
        replace(record, checks=replace(record.checks, beats_majority=False))
        if record.checks and (record.spec.method, record.spec.seed) == ("block_high", 42)
        else record
        for record in records
    ]
    one = judged(claim.id, paper, *nothing)
    assert one.evidence.learned_nothing == ("block_high cola",)
    assert one.ours.status == "holds"  # the row that was behind is out; block_low is ahead of both
    assert {test.row for test in one.tests} == {"block_low"}


def test_a_best_is_unknown_while_a_row_lacks_a_seed_but_other_pairs_count(
    paper: PaperTables,
) -> None:
    records = world_of(CLAIMS["beats_full_on_mr_trec"], holds=True).records(BERT, without=("low_k", 42))
    one = judged("beats_full_on_mr_trec", paper, *records)
    assert one.tests == () and "every row" in one.no_test
    records = world_of(CLAIMS["cola_wants_blocks"], holds=True).records(BERT, without=("low_k", 42))
    tests = judged("cola_wants_blocks", paper, *records).tests
    pairs = {(test.row, test.other): test.pairs for test in tests}
    assert pairs == {
        ("block_high", "low_k"): 2,
        ("block_low", "low_k"): 2,
        ("block_high", "high_k"): 3,
        ("block_low", "high_k"): 3,
    }


def test_a_speed_up_is_paired_over_the_tasks_of_its_average(paper: PaperTables) -> None:
    name = "nearly_as_fast_as_lora"
    (test,) = judged(name, paper, *world_of(CLAIMS[name], holds=True).records(BERT)).tests
    assert (test.tasks, test.pairs, test.against) == (2, 6, -0.1)
    assert test.mean == pytest.approx(-0.09)


def test_metrics_of_one_task_are_tested_apart(paper: PaperTables) -> None:
    name = "slimfit_beaten_e2e"
    tests = judged(name, paper, *world_of(CLAIMS[name], holds=True).records(BERT)).tests
    means = {test.where: test.mean for test in tests}
    assert means == {"nist": pytest.approx(0.15), "cider": pytest.approx(0.05)}
    assert {test.against for test in tests} == {0.14, 0.04}
    assert {test.tasks for test in tests} == {1}


@pytest.mark.parametrize(
    ("name", "rows", "against", "lower"),
    [
        ("close_to_full_pair", {(row, "full") for row in PARTS["ours_best"]}, -1.0, False),
        ("close_to_full_single", {("high_k", "full")}, -0.7, False),
        ("low_bleu_over_full", {("low_k", "full")}, 1.4, False),
        ("speedup", {("ours_mean", "")}, 1.5, False),
        (
            "larger_rank_helps_lora",
            {("lora_r16", "lora_r8"), ("lora_r32", "lora_r16"), ("lora_r64", "lora_r32")},
            0.0,
            False,
        ),
        ("speedup_falls_with_k", {(f"low_k@{k + 1}", f"low_k@{k}") for k in range(1, 11)}, 0.0, True),
        (
            "cosine_beats_euclidean",
            {("high_k", "euclidean_high_k"), ("low_k", "euclidean_low_k")},
            0.0,
            False,
        ),
        ("qnli_low_is_worst", {("low_k", row) for row in ("high_k", "block_high", "block_low")}, 0.0, True),
        ("lora_beaten_by_up_to_3", {("ours_best", "lora")}, 0.0, False),
    ],
)
def test_a_claim_tests_the_rows_that_it_compares(
    paper: PaperTables, name: str, rows: set[tuple[str, str]], against: float, lower: bool
) -> None:
    tests = judged(name, paper, *world_of(CLAIMS[name], holds=True).records(BERT)).tests
    assert {(test.row, test.other) for test in tests} == rows
    assert {(test.against, test.lower_is_better) for test in tests} == {(against, lower)}
    assert all(test.lead >= -1e-9 for test in tests)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fewer_parameters", "counts do not vary by chance"),
        ("parameters_cut_gpt2", "counts do not vary by chance"),
        ("no_strategy_is_universal", "a statement about a whole table; differences are judged task by task"),
        (
            "strategies_differ_beyond_noise",
            "a statement about a whole table; differences are judged task by task",
        ),
    ],
)
def test_what_is_no_comparison_has_no_test_and_says_why(paper: PaperTables, name: str, reason: str) -> None:
    one = judged(name, paper, *world_of(CLAIMS[name], holds=True).records(BERT))
    assert (one.tests, one.no_test) == ((), reason)


def test_without_records_every_claim_is_open_and_the_paper_keeps_its_verdicts(
    paper: PaperTables,
) -> None:
    found = judge_all(CLAIMS.values(), paper, BERT, RecordIndex(()))
    assert {one.ours.status for one in found} == {"not_enough_runs"}
    assert {one.evidence.runs[0] for one in found} == {0}
    statuses = [one.paper.status for one in found]
    assert (statuses.count("holds"), statuses.count("does_not_hold"), len(statuses)) == (34, 19, 59)
