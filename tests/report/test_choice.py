"""Whether the choice of layers follows the task: on scores made up so that it does or does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import write
from test_figures_scores import scored

from layertune.report.claims import judge_all
from layertune.report.claims_text import to_text
from layertune.report.figures.scores import controls_figure
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import (
    ChoiceJudged,
    choice_claim,
    control_sentences,
    judge_choice,
    model_scores,
)
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import load_claims
from layertune.report.request import Request

TASKS = ("sst2", "trec", "cola", "cr", "mr")
ALIKE = dict.fromkeys(TASKS, (0.1, 0.2, 0.3, 0.4))
# each task leaves out another layer as its lowest, or its highest, score
UNLIKE = {
    "sst2": (0.1, 0.2, 0.3, 0.4),
    "trec": (0.4, 0.1, 0.2, 0.3),
    "cola": (0.3, 0.4, 0.1, 0.2),
    "cr": (0.2, 0.3, 0.4, 0.1),
    "mr": (0.4, 0.3, 0.1, 0.2),
}


def judged(
    folder: Path, first: dict, second: dict | None = None, **controls: dict
) -> tuple[RecordIndex, ChoiceJudged]:  # type: ignore[type-arg]
    records = [scored(task, values) for task, values in first.items()]
    records += [
        scored(task, tuple(v + 0.001 for v in values), "scoring.examples=16", examples=16)
        for task, values in (second or {}).items()
    ]
    for name, own in controls.items():
        records += [
            scored(task, values, f"task.control={name}", run_id=f"{task}-{name}")
            for task, values in own.items()
        ]
    index = RecordIndex.read(write(folder, *records))
    return index, judge_choice(index, "tiny_bert")


def test_tasks_that_all_choose_the_same_layers_are_not_followed(tmp_path: Path) -> None:
    _, choice = judged(tmp_path, ALIKE)
    assert (choice.verdict.status, choice.same_layers, choice.samples) == ("does_not_hold", 1.0, None)
    assert choice.tasks == ("sst2", "mr", "cr", "trec", "cola")  # as Table 1 orders them


def test_the_choice_follows_where_tasks_differ_and_agree_with_themselves(tmp_path: Path) -> None:
    _, choice = judged(tmp_path, UNLIKE, UNLIKE)
    assert choice.verdict.status == "holds"
    assert choice.samples is not None and choice.same_layers is not None
    assert choice.samples.own == pytest.approx((1.0,) * 5)
    assert choice.samples.p == pytest.approx(1 / 120, abs=0.004)  # of 120 ways to deal five samples, one
    # lowest layers left out: 1 2 3 4 3, one pair of ten alike; highest: 4 1 2 3 1, one; in the first block
    # (layers 1 and 2) the higher is 2 1 2 2 1, four pairs alike, and so is the lower
    assert choice.same_layers == pytest.approx((1 + 1 + 4 + 4) / 40)


def test_without_a_second_sample_or_with_one_that_is_anybodys_it_stays_open(tmp_path: Path) -> None:
    assert judged(tmp_path / "one", UNLIKE)[1].verdict.status == "not_enough_runs"
    shifted = dict(zip(UNLIKE, [*list(UNLIKE.values())[1:], UNLIKE["sst2"]], strict=True))
    assert judged(tmp_path / "two", UNLIKE, shifted)[1].verdict.status == "within_noise"
    assert judged(tmp_path / "three", {"sst2": UNLIKE["sst2"]})[1].verdict.status == "not_enough_runs"


def test_controls_are_compared_with_the_texts_and_never_taken_for_them(tmp_path: Path) -> None:
    index, choice = judged(tmp_path, UNLIKE, unk=UNLIKE, random=ALIKE)
    assert [one.values for one in model_scores(index, "tiny_bert").by_task["trec"]] == [UNLIKE["trec"]]
    assert set(choice.controls) == {"unk", "random"}
    assert choice.controls["unk"].same_layers == 1.0
    assert choice.controls["unk"].own == pytest.approx((1.0,) * 5)
    assert choice.controls["random"].p == 1.0  # alike for every task: nothing of the task is left
    assert control_sentences(choice)[0].startswith(
        "as many [UNK] in place of each text: orders agree with those of the texts by 1.000"
    )
    controls = {name: model_scores(index, "tiny_bert", name) for name in choice.controls}
    figure = controls_figure(model_scores(index, "tiny_bert"), controls, choice)
    assert "[UNK]" in "".join(text.get_text() for axes in figure.axes for text in axes.get_xticklabels())


def test_the_claim_of_the_paper_is_judged_on_scores_with_the_controls_beside_it(
    tmp_path: Path, paper: PaperTables
) -> None:
    index, choice = judged(tmp_path, UNLIKE, UNLIKE, unk=UNLIKE)
    (claim,) = [one for one in load_claims() if one.kind == "layer_choice"]
    (one,) = judge_all([claim], paper, Request("tiny_bert"), index)
    assert (one.paper.status, one.ours, one.elsewhere) == (
        "not_enough_runs",
        choice.verdict,
        choice_claim(index, "tiny_bert"),
    )
    lines = [line for line in to_text([one], Request("tiny_bert")).splitlines() if "[UNK]" in line]
    assert len(lines) == 1 and lines[0].startswith("  - control: as many [UNK] in place of each text")
