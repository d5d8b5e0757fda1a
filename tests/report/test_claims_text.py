"""How judged claims read: sections, lines, tests in words, JSON, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from claim_worlds import World, world_of
from made_records import write
from programs import program

from layertune.config.groups import CONFIG_DIR
from layertune.records import Record
from layertune.report.claims import judge_all
from layertune.report.claims_text import section_of, to_json, to_text
from layertune.report.index import RecordIndex
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import Claim, load_claims
from layertune.report.request import Request

CLAIMS = {claim.id: claim for claim in load_claims(CONFIG_DIR.parent / "results" / "paper")}
GTE = Request(model="gte_small", overrides=("train.epochs=3",))


def text_of(
    paper: PaperTables, name: str, *records: Record, request: Request = GTE, claim: Claim | None = None
) -> list[str]:
    """Return the lines that one claim gets."""
    judged = judge_all([claim or CLAIMS[name]], paper, request, RecordIndex(records))
    lines = to_text(judged, request).splitlines()
    start = next(index for index, line in enumerate(lines) if f"(`{name}`, " in line)
    return lines[start : lines.index("", start)]


def test_a_claim_says_what_the_paper_and_the_records_say_and_how_it_was_tested(paper: PaperTables) -> None:
    world = World(CLAIMS["beats_full_on_mr_trec"])
    mr = world.claim.columns[0]
    for row, number in {"full": 52, "high_k": 50, "low_k": 50, "block_high": 50, "block_low": 50}.items():
        world.put(row, number)
    world.put("low_k", 53.5, mr)
    assert text_of(paper, "beats_full_on_mr_trec", *world.records(GTE)) == [
        "- **DOES NOT HOLD** On MR and TREC the method beats full fine-tuning. "
        "(`beats_full_on_mr_trec`, §5.1)",
        "  - paper, Table 1: follows; 2 of 2 comparisons hold",
        "  - records: 1 of 2 comparisons hold; against it: ours_best - full is -2 on gte_small/trec accuracy",
        "  - runs: 30 of 30 (mr 15, trec 15); cells: 10 done",
        "  - test: ours_best - full: -0.25 [-22.49, +21.99], p 0.91, Holm 0.91; 4 pairs of 2 tasks; "
        "chosen on the first seed, tested on the others",
        "  - task by task, beyond the noise of seeds: 1 for it, 1 against, of 2",
    ]  # +1.5 and -2: 1.75 of standard error, 12.7062 of which are 22.24; p of t = 1/7 is 1 - 2 atan(1/7) / pi


def test_an_open_claim_without_runs_says_so_in_two_lines(paper: PaperTables) -> None:
    assert text_of(paper, "high_beats_low_for_every_k_qnli") == [
        "- **NOT ENOUGH RUNS** On QNLI high-scoring layers beat low-scoring ones for every k from 1 to 11. "
        "(`high_beats_low_for_every_k_qnli`, §7.1)",
        "  - paper, Figure 5: cannot be told, figures print no numbers",
        "  - runs: 0 of 66; cells: 22 missing",
    ]


def test_what_is_missing_is_named_once_most_runs_are_there(paper: PaperTables) -> None:
    records = world_of(CLAIMS["mr_wants_high"], holds=True).records(GTE, without=("low_k", 42))
    lines = text_of(paper, "mr_wants_high", *records)
    assert "  - records: 2 of 2 comparisons hold; missing: low_k gte_small/mr accuracy" in lines
    assert "  - runs: 11 of 12 (mr 11); cells: 3 done, 1 partial" in lines


def test_other_data_failures_errata_and_readings_are_shown(paper: PaperTables) -> None:
    records = world_of(CLAIMS["mr_wants_high"], holds=True).records(GTE)
    own = [replace(one, data=replace(one.data, status="own-split")) for one in records if one.data]
    failed = replace(own[0], status="failed", metrics=None, error="ValueError: loss is nan")
    claim = replace(CLAIMS["mr_wants_high"], choice="accuracy alone")
    lines = text_of(paper, claim.id, failed, *own[1:], claim=claim)
    assert lines[0].startswith("- **NOT ENOUGH RUNS ‡** MR, called structural")
    assert lines[1].endswith("[erratum text_5_1_task_types]")
    assert lines[3].endswith("; ‡ mr: own-split, not the official data")
    assert lines[4] == "  - read as: accuracy alone"
    assert lines[5] == f"  - {failed.run_id} failed: ValueError: loss is nan"


def test_many_tests_are_counted_by_what_they_decide_and_the_weakest_are_shown(paper: PaperTables) -> None:
    claim = CLAIMS["wins_7_of_8_single"]  # against twelve baselines, on eight tasks
    world = world_of(claim, holds=True)
    for step, column in enumerate(claim.columns):
        world.put("slimfit", 70 + step, column)  # ahead by 9 and more
        world.put("ours_best", 60 + step / 8, column)
    lines = text_of(paper, claim.id, *world.records(GTE))
    tests = [line for line in lines if line.startswith("  - test: ")]
    assert tests[0].startswith("  - test: ours_best - slimfit: -13.06 [")
    assert tests[0].endswith("; 16 pairs of 8 tasks; chosen on the first seed, tested on the others")
    assert len(tests) == 3
    assert lines[-2] == (
        "  - 9 more tests; 12 of all 12 decided (Holm p < 0.05), 11 for the claim and 1 against it"
    )


def test_the_error_of_the_evaluation_split_stands_beside_a_claim_on_few_tasks(paper: PaperTables) -> None:
    records = world_of(CLAIMS["mr_wants_high"], holds=True).records(GTE)
    counted = [
        replace(one, data=replace(one.data, counts={"train": 64, "mr": 500})) for one in records if one.data
    ]
    lines = text_of(paper, "mr_wants_high", *counted)
    # accuracies of 60 and 50 %: the larger is sqrt(0.5 * 0.5 / 500)
    assert "  - standard error of the evaluation split itself, which no seed changes: mr 2.2" in lines


def test_where_nothing_is_decided_it_says_of_how_many(paper: PaperTables) -> None:
    claim = CLAIMS["wins_7_of_8_single"]
    world = world_of(claim, holds=True)
    for step, column in enumerate(claim.columns):
        world.put("ours_best", 50 + (step % 2 or -1) * 10, column)
    lines = text_of(paper, claim.id, *world.records(GTE))
    assert "  - 9 more tests; 0 of all 12 decided (Holm p < 0.05), 0 for the claim and 0 against it" in lines


def test_what_learned_nothing_is_named_and_a_claim_within_noise_is_called_so(paper: PaperTables) -> None:
    world = World(CLAIMS["mr_wants_high"])
    world.spread = 1.0
    for row, number in {"high_k": 50.1, "low_k": 50, "block_high": 50, "block_low": 50}.items():
        world.put(row, number)
    records = world.records(GTE)
    first = replace(records[0], checks=replace(records[0].checks, beats_majority=False))
    lines = text_of(paper, "mr_wants_high", *records)
    assert lines[0].startswith("- **WITHIN NOISE** MR, called structural")
    row = records[0].spec.method
    lines = text_of(paper, "mr_wants_high", first, *records[1:])
    assert f"  - † left out, at the majority class: {row} mr" in lines


def test_a_single_pair_is_no_test(paper: PaperTables) -> None:
    records = world_of(CLAIMS["cola_wants_blocks"], holds=True).records(GTE)
    first = [one for one in records if one.spec.seed == 0]
    assert "  - 4 comparisons with a single pair of runs: no test can decide" in text_of(
        paper, "cola_wants_blocks", *first
    )


def test_every_claim_stands_in_the_section_that_makes_it_first() -> None:
    assert section_of("Abstract, §6") == "Abstract, highlights, introduction"
    assert section_of("Highlights, §8") == section_of("§1, §5.1") == section_of("§1")
    assert section_of("§5.1, §5.5") == "§5.1 Single sentences"
    assert section_of("§7.3") == "§7 Ablations"
    assert all(section_of(claim.section) for claim in CLAIMS.values())


def test_the_listing_counts_verdicts_and_states_its_assumptions(paper: PaperTables) -> None:
    text = to_text(judge_all(CLAIMS.values(), paper, GTE, RecordIndex(())), GTE)
    lines = text.splitlines()
    assert lines[0] == "# The paper's claims, asked of GTE-small"
    assert lines[2].startswith("59 claims; written by `make claims MODEL=gte_small SET=train.epochs=3`.")
    assert lines[4].startswith("- by the paper's own tables 34 follow, 19 do not, 6 cannot be told")
    assert (
        lines[5]
        == "- by our records 0 hold, 0 do not, 0 are within noise, 59 lack runs (0 of these have some)"
    )
    assert sum(line.startswith("- **") for line in lines) == 59
    assert "hierarchical bootstrap" in text and "on the first seed" in text
    assert all(f"`{name}`" in text for name in CLAIMS)


def test_json_has_every_number_test_and_run_id(paper: PaperTables) -> None:
    claim = CLAIMS["mr_wants_high"]
    records = world_of(claim, holds=True).records(GTE)
    (judged,) = judge_all([claim], paper, GTE, RecordIndex(records))
    tree = json.loads(to_json([judged], GTE))
    assert tree["summary"]["records"] == {
        "holds": 1,
        "does_not_hold": 0,
        "within_noise": 0,
        "not_enough_runs": 0,
    }
    (one,) = tree["claims"]
    assert one["records"]["numbers"]["high_k - low_k, gte_small/mr accuracy"] == pytest.approx(10)
    assert sorted(one["evidence"]["run_ids"]) == sorted(record.run_id for record in records)
    assert {test["other"] for test in one["tests"]} == {"low_k", "block_high", "block_low"}
    assert one["tests"][0]["mean"] == pytest.approx(10) and one["tests"][0]["decides"] is True


def test_the_command_prints_what_it_writes_and_a_second_run_changes_nothing(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "runs", *world_of(CLAIMS["mr_wants_high"], holds=True).records(GTE))
    words = ["claims", "model=gte_small", "train.epochs=3", f"results_dir={tmp_path}"]
    found = []
    for more in ([], [], ["--json"]):
        assert program(repo / "scripts" / "report.py", [*words, *more], monkeypatch) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == (tmp_path / "claims" / f"{GTE.folder}.md").read_text(encoding="utf-8")
    assert "- **HOLDS** MR, called structural" in found[0]
    assert len(json.loads(found[2])["claims"]) == 59


def test_a_wrong_request_is_one_sentence_and_code_2(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["claims", "model=brt", f"results_dir={tmp_path}"]
    assert program(repo / "scripts" / "report.py", words, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model=brt does not exist") and error.count("\n") == 1
    assert not (tmp_path / "claims").exists()


def test_claims_are_judged_without_torch(repo: Path, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['report.py', 'claims', 'results_dir=' + sys.argv[1]];"
        "runpy.run_path('scripts/report.py', run_name='__main__');"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=repo, stdout=subprocess.DEVNULL)
    assert done.returncode == 0
