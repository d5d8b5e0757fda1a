"""The paper's claims: read, and judged on the paper's own numbers, with verdicts worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layertune.errors import ConfigError
from layertune.report.paper_claims import Claim, ClaimColumn, Verdict, judge, load_claims, paper_numbers

HOLDS, FAILS, OPEN = "holds", "does_not_hold", "not_enough_runs"

# Read off the printed tables; the numbers are those that decide.
EXPECTED = {
    "parameters_cut_bert": (HOLDS, "28.3 / 116.6 = 0.243"),
    "parameters_cut_gpt2": (FAILS, "21.3 / 124.4 = 0.171"),
    "speedup": (HOLDS, "1.54"),
    "close_to_full_single": (HOLDS, "85.7 - 85.0 = 0.7"),
    "close_to_full_everywhere": (FAILS, "84.8 - 83.4 = 1.4"),
    "wins_14_of_16": (HOLDS, "13 of 15, not CR and MRPC, and three of five E2E metrics"),
    "wins_14_of_16_with_one_strategy": (FAILS, "High 5, Low 7, block-highest 11, block-lowest 10 and E2E"),
    "wins_everywhere": (FAILS, "not CR and MRPC"),
    "better_out_of_domain": (FAILS, "87.6 < 88.8"),
    "peft_beaten_single": (HOLDS, "closest: Low on CoLA, 80.8 > 80.5"),
    "gaps_peft_single": (HOLDS, "85.0 less 82.8, 83.1, 82.9, 83.0"),
    "gaps_fixed_single": (HOLDS, "85.0 less 82.8, 83.6, 82.6: 2.2, 1.4, 2.4"),
    "gaps_dynamic_single": (HOLDS, "85.0 less 84.1, 84.4, 84.5"),
    "block_low_best_single": (FAILS, "84.9625 < 84.975"),
    "beats_full_on_mr_trec": (HOLDS, "88.1 > 87.8, 96.8 > 96.7"),
    "wins_7_of_8_single": (HOLDS, "not CR, 86.9 < 87.2"),
    "no_strategy_is_universal": (HOLDS, "each is below another somewhere"),
    "mr_wants_high": (HOLDS, "88.1 before 88.0"),
    "strategies_differ_beyond_noise": (FAILS, "SST-2 90.4 to 90.8, std up to 0.4"),
    "peft_beaten_pair": (FAILS, "STS-B 82.4 < 83.4"),
    "gaps_peft_pair": (HOLDS, "81.6 less 79.1, 79.8, 79.4, 79.6"),
    "gaps_fixed_pair": (HOLDS, "81.6 less 79.0, 80.7, 79.0: 2.6, 0.9, 2.6"),
    "gaps_dynamic_pair": (HOLDS, "81.6 less 80.6, 81.1, 80.8: 1.0, 0.5, 0.8"),
    "close_to_full_pair": (FAILS, "MRPC 81.8 - 71.6 = 10.2"),
    "full_beaten_e2e": (HOLDS, "closest: METEOR 46.0 > 45.8"),
    "low_bleu_over_full": (HOLDS, "68.9 - 67.5 = 1.4"),
    "block_low_best_nist_rouge": (HOLDS, "8.77 > 8.75, 71.0 > 70.9"),
    "partial_beaten_e2e": (HOLDS, "98 of 100, METEOR 46.0 of RECAP twice equalled"),
    "slimfit_beaten_e2e": (HOLDS, "8.77 - 8.63, 2.48 - 2.44"),
    "lora_matched_e2e": (HOLDS, "69.3 - 68.9 = 0.4, 8.77 > 8.75, 71.0 > 70.8, 2.49 > 2.47"),
    "lora_matched_e2e_by_one_strategy": (FAILS, "Low: NIST 8.73 < 8.75; block-lowest: BLEU 0.5 behind"),
    "lora_is_fastest": (FAILS, "1.63 < 1.76 of (IA)³"),
    "nearly_as_fast_as_lora": (HOLDS, "1.54 - 1.63"),
    "fewer_parameters": (HOLDS, "28.3 < 40.7 < 116.6"),
    "lora_beaten_by_up_to_3": (FAILS, "RTE 62.0 - 56.3 = 5.7"),
    "sst2_wants_low": (HOLDS, "90.8 before 90.7"),
    "e2e_wants_low": (FAILS, "NIST 8.73 < 8.77"),
    "qnli_wants_high": (HOLDS, "90.2 before 90.1"),
    "qnli_low_is_worst": (FAILS, "89.4 > 88.7"),
    "cola_wants_blocks": (HOLDS, "81.1 > 81.0"),
    "mrpc_wants_block_high": (HOLDS, "75.3 before 75.0"),
    "stsb_wants_blocks": (FAILS, "block-lowest 83.3 = Low 83.3"),
    "choice_follows_the_task": (OPEN, "a figure without numbers"),
    "scores_find_good_layers": (OPEN, "judged on landscapes"),
    "best_layers_follow_the_task": (OPEN, "judged on landscapes"),
    "cross_domain_close_to_full": (FAILS, "SST-2 to IMDb 88.8 - 87.6 = 1.2"),
    "cross_domain_baselines_beaten": (HOLDS, "closest: SST-2 to IMDb 87.6 > 86.2"),
    "low_beats_high_for_every_k_sst2": (OPEN, "a figure without numbers"),
    "high_beats_low_for_every_k_qnli": (OPEN, "a figure without numbers"),
    "speedup_falls_with_k": (OPEN, "figures without numbers"),
    "other_models_best_strategy": (HOLDS, "closest: RoBERTa SST-2 92.2 > 91.4"),
    "other_models_each_strategy": (FAILS, "ELECTRA SST-2 High 88.5 < 89.2"),
    "large_datasets": (HOLDS, "82.5 > 82.2, 89.8 > 89.2, 90.1 > 89.3"),
    "cosine_beats_euclidean": (HOLDS, "closest: MRPC 72.5 > 70.7"),
    "other_metrics_beaten": (HOLDS, "closest: SST-2 90.8 > 90.1 and QNLI 90.2 > 89.5"),
    "other_metrics_beaten_by_each_strategy": (FAILS, "MRPC 71.6 < 73.9"),
    "extremes_beat_the_middle": (FAILS, "QNLI 88.7 < 88.8 with Table 2's number"),
    "larger_rank_helps_lora": (HOLDS, "every row above the one before"),
    "lora_behind_at_every_rank": (HOLDS, "closest: CoLA 81.2 > 80.9"),
}


@pytest.fixture(scope="module")
def claims(repo: Path) -> dict[str, Claim]:
    return {claim.id: claim for claim in load_claims(repo / "results" / "paper")}


@pytest.fixture(scope="module")
def judged(claims, paper) -> dict[str, Verdict]:
    return {name: judge(claim, paper_numbers(paper, claim.tables)) for name, claim in claims.items()}


def test_every_claim_has_a_verdict_worked_out_by_hand(claims):
    assert set(claims) == set(EXPECTED)
    assert len(claims) >= 20


@pytest.mark.parametrize("name", EXPECTED)
def test_the_papers_own_numbers_give_the_verdict_worked_out_by_hand(name, judged):
    assert judged[name].status == EXPECTED[name][0], judged[name].reason


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("close_to_full_everywhere", "best average - full", -1.4),
        ("gaps_fixed_pair", "best average - random_k", 2.6),
        ("gaps_dynamic_single", "best average - slimfit", 0.5),
        ("wins_14_of_16_with_one_strategy", "data sets won by high_k", 5),
        ("wins_14_of_16_with_one_strategy", "data sets won by low_k", 7),
        ("wins_14_of_16_with_one_strategy", "data sets won by block_high", 11),
        ("wins_14_of_16_with_one_strategy", "data sets won by block_low", 11),  # 10 of 15, and E2E
        ("lora_beaten_by_up_to_3", "largest ours_best - lora, bert/rte accuracy", 5.7),
        ("cross_domain_close_to_full", "ours_best - full, bert/sst2_imdb accuracy", -1.2),
        ("extremes_beat_the_middle", "block_high - block_median, bert/qnli accuracy", -0.1),
        ("other_models_each_strategy", "high_k - bottom_k, tinyllama/stsb pearson", -0.6),
        ("slimfit_beaten_e2e", "block_low - slimfit, gpt2/e2e cider", 0.04),
    ],
)
def test_the_numbers_behind_a_verdict_are_those_of_the_tables(name, number, value, judged):
    assert judged[name].numbers[number] == pytest.approx(value)


def test_without_records_every_claim_lacks_runs(claims):
    for claim in claims.values():
        assert judge(claim, lambda row, task, metric, model: None).status == OPEN


def test_errata_and_tables_that_claims_name_exist(claims, errata):
    for claim in claims.values():
        assert claim.erratum is None or claim.erratum in errata
        assert set(claim.tables) <= {*range(1, 11), "figure2", "figure4", "figure5"}


def test_a_claim_looks_only_into_its_tables(claims, paper):
    value = paper_numbers(paper, [2])
    assert value("high_k", "qnli", "accuracy", "bert") == 90.2
    assert value("high_k", "qnli", "accuracy_std", "bert") == 0.3
    assert value("high_k", "sst2", "accuracy", "bert") is None
    assert paper_numbers(paper, ["figure4"])("low_k", "sst2", "accuracy", "bert") is None


def test_the_papers_numbers_carry_the_errata_and_keep_untargeted_prints(paper):
    assert paper_numbers(paper, [9])("block_high", "qnli", "accuracy", "bert") == 88.7
    assert paper.find(4, "slimfit", "average", "trainable_parameters").target is None
    assert paper_numbers(paper, [4])("slimfit", "average", "trainable_parameters", "bert") == 40.7


def test_the_metric_of_every_task_is_the_printed_one(claims, paper):
    printed = {(n.model, n.task, n.metric) for n in paper.numbers}
    columns = {c for claim in claims.values() if "figure4" not in claim.tables for c in claim.columns}
    assert {(c.model, c.task, c.metric) for c in columns} <= printed
    assert ClaimColumn("qqp", "f1_macro") in columns


def test_groups_are_expanded_into_rows_and_columns(claims):
    claim = claims["peft_beaten_pair"]
    assert claim.operands["rows"] == ["high_k", "low_k", "block_high", "block_low"]
    assert claim.operands["over"] == ["lora", "adapters", "prefix", "ia3"]
    assert [column.task for column in claim.columns] == ["mnli", "snli", "qnli", "rte", "mrpc", "qqp", "stsb"]
    assert len(claims["other_models_each_strategy"].columns) == 20


GOOD = (
    "{id: a, section: §1, says: b, kind: bounded, tables: [1], columns: [{tasks: [t]}], row: r, at_least: 1}"
)


@pytest.mark.parametrize(
    ("claims_text", "message"),
    [
        (GOOD.replace("says: b, ", ""), "a: says"),
        (GOOD.replace("kind: bounded", "kind: wish"), "a: unknown kind 'wish'"),
        (
            GOOD.replace("row: r, ", ""),
            "a: bounded cannot be asked like this",
        ),
        (GOOD.replace("at_least", "at_most"), "a: bounded cannot be asked like this"),
        (
            GOOD.replace("[{tasks: [t]}]", "[{task: t}]"),
            "a: a column: tasks",
        ),
        (GOOD.replace("[t]", "[u]"), "a: no metric given for u"),
        (f"{GOOD}, {GOOD}", "a comes twice"),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, claims_text, message):
    text = f"groups: {{}}\nmetrics: {{t: accuracy}}\nclaims: [{claims_text}]\n"
    (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="claims.yaml.*" + re.escape(message)):
        load_claims(tmp_path)
