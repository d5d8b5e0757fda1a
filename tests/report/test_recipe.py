"""From the records of a search to a recipe: the rule, its ties, what is refused. Records are made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import made
from omegaconf import OmegaConf

from layertune.config.compose import plain_run
from layertune.config.rates import build_recipe
from layertune.errors import RecipeError
from layertune.records import Record
from layertune.report.recipe import (
    RecipeEntry,
    choose,
    objective,
    search_records,
    write_recipe,
)

Make = Callable[..., Record]


def searched(
    rate: float = 2e-5,
    score: float | None = 0.5,
    *extra: str,
    epochs: int = 5,
    batch: int = 32,
    seed: int = 0,
    data: str = "rows",
    weights: str = "random",
) -> Record:
    """Return the record of a search run of tiny_bert on demo, accuracy `score`."""
    given = {item.split("=")[0] for item in extra}
    asked = [
        "model=tiny_bert",
        *(
            item
            for item in ("task=demo", "method=low_k", "protocol=search")
            if item.split("=")[0] not in given
        ),
        *(
            f"train.learning_rate={rate}",
            f"train.epochs={epochs}",
            f"train.batch_size={batch}",
            f"seed={seed}",
        ),
        *extra,
    ]
    run = plain_run(asked)
    metrics = {run.task.data_name: {"accuracy": score, "f1_macro": 0.9}}
    return made(run, run_id=run.run_id, metrics=metrics, data="synthetic", rows=data, weights=weights)


def only(records: list[Record], **options: Any) -> RecipeEntry:
    (found,), _ = choose(records, "tiny_bert", **options)
    return found


def test_the_highest_mean_over_seeds_wins() -> None:
    records = [
        searched(1e-5, 0.90, seed=0),
        searched(1e-5, 0.60, seed=42),  # mean 0.75
        searched(2e-5, 0.80, seed=0),
        searched(2e-5, 0.78, seed=42),  # mean 0.79
        searched(5e-5, 0.10, seed=0),
        searched(5e-5, 0.85, seed=42),
    ]
    found = only(records)
    assert (found.task, found.method, found.grid) == ("demo", "low_k", "paper")
    assert found.values == (2e-5, 5, 32)
    assert found.score == pytest.approx(0.79)
    assert found.seeds == (0, 42)
    assert found.records == tuple(sorted(record.run_id for record in records))


@pytest.mark.parametrize(
    ("other", "winner"),
    [
        ({"rate": 1e-5}, (1e-5, 5, 32)),  # the smaller rate
        ({"epochs": 3}, (2e-5, 3, 32)),  # then fewer epochs
        ({"batch": 16}, (2e-5, 5, 32)),  # then the larger batch
        ({"rate": 1e-5, "epochs": 10, "batch": 16}, (1e-5, 10, 16)),
    ],
)
def test_ties_go_to_the_smaller_rate_then_fewer_epochs_then_the_larger_batch(
    other: dict[str, Any], winner: tuple[float, int, int]
) -> None:
    first, second = searched(), searched(**other)
    assert only([first, second]).values == only([second, first]).values == winner


def test_a_tie_does_not_hang_on_the_order_of_a_sum() -> None:
    # 0.1 + 0.2 + 0.3 = 0.6000000000000001, 0.3 + 0.2 + 0.1 = 0.6
    rates = {1e-5: (0.3, 0.2, 0.1), 2e-5: (0.1, 0.2, 0.3)}
    records = [searched(rate, s, seed=i) for rate, scores in rates.items() for i, s in enumerate(scores)]
    assert only(records).values[0] == 1e-5


def test_only_runs_that_differ_in_rate_epochs_and_batch_are_compared() -> None:
    usual = searched(2e-5, 0.6)
    others = [
        searched(2e-5, 0.9, "method.k=2"),
        searched(2e-5, 0.9, "train.weight_decay=0.1"),
        searched(2e-5, 0.9, "model.head=pooled"),
        searched(2e-5, 0.9, "train=fast"),
        dataclasses.replace(searched(5e-5, 0.9), status="interrupted"),
    ]
    (found,), left_out = choose([usual, *others], "tiny_bert")
    assert found.records == (usual.run_id,) and found.score == 0.6
    assert left_out == [record.run_id for record in others]


def test_a_candidate_that_failed_for_one_seed_is_none() -> None:
    records = [searched(rate, 0.5, seed=seed) for rate in (1e-5, 2e-5) for seed in (0, 42)]
    diverged = [searched(5e-5, 0.9), dataclasses.replace(searched(5e-5, None, seed=42), status="failed")]
    assert only([*records, *diverged]).values[0] == 1e-5
    with pytest.raises(RecipeError, match="of 1 candidates all failed"):
        choose([dataclasses.replace(diverged[0], status="oom")], "tiny_bert")


def test_candidates_are_compared_on_the_seeds_they_share() -> None:
    records = [searched(1e-5, 0.7), searched(2e-5, 0.6), searched(2e-5, 1.0, seed=42)]
    (found,), left_out = choose(records, "tiny_bert")
    assert (found.values[0], found.seeds, left_out) == (1e-5, (0,), [records[2].run_id])
    with pytest.raises(RecipeError, match="no two have a seed in common"):
        choose([searched(1e-5), searched(2e-5, seed=42)], "tiny_bert")


def test_a_metric_that_is_not_finite_is_worse_than_any() -> None:
    assert only([searched(1e-5, None), searched(2e-5, 0.01)]).values[0] == 2e-5


def test_every_task_and_method_is_chosen_for_itself() -> None:
    records = [
        searched(rate, score, f"method={method}")
        for method, best in (("low_k", 1e-5), ("full", 5e-5))
        for rate, score in ((1e-5, 0.6 + (best == 1e-5)), (5e-5, 0.6 + (best == 5e-5)))
    ]
    found, left_out = choose(records, "tiny_bert")
    assert [(one.method, one.values[0]) for one in found] == [("full", 5e-5), ("low_k", 1e-5)]
    assert left_out == []


# -- grids --------------------------------------------------------------------------------------------------


def test_records_of_two_grids_are_refused_unless_one_is_named() -> None:
    paper = [searched(1e-5, 0.5, "method=full"), searched(2e-5, 0.6, "method=full")]
    fair = [searched(1e-5, 0.9, "method=full", "grid=fair"), searched(2e-5, 0.8, "method=full", "grid=fair")]
    with pytest.raises(RecipeError, match=r"several grids \(fair: 2, paper: 2\)"):
        choose([*paper, *fair], "tiny_bert")
    assert only([*paper, *fair], grid="paper").values[0] == 2e-5
    assert only([*paper, *fair], grid="fair").values[0] == 1e-5
    assert only(fair).grid == "fair" and only(paper).grid == "paper"


def test_a_run_that_two_grids_share_counts_for_the_one_that_was_searched() -> None:
    # At 5e-5 the head's rate is the same under both grids, and so is the run; sweep one, and it is there.
    paper = [searched(rate, score, "method=full") for rate, score in ((2e-5, 0.5), (5e-5, 0.9))]
    fair = [searched(rate, 0.6, "method=full", "grid=fair") for rate in (1e-5, 2e-5)]
    assert only(paper).grid == "paper"
    assert only([*paper, *fair], grid="fair").values[0] == 5e-5
    with pytest.raises(
        RecipeError, match=r"no search of tiny_bert under grid=fair: python run\.py sweep=rates"
    ):
        choose(paper, "tiny_bert", "fair")


# -- one rate for all tasks ---------------------------------------------------------------------------------


def tuned(scores: dict[float, tuple[float, float]]) -> list[Record]:
    """Records of a search under grid=tuned: rate -> accuracy on demo and on a second task."""
    return [
        searched(rate, score, "grid=tuned", f"task={task}", data=task)
        for rate, both in scores.items()
        for task, score in zip(("demo", "sst2"), both, strict=True)
    ]


def test_under_tuned_one_rate_holds_for_all_tasks_by_their_mean() -> None:
    # Means 0.60, 0.75, 0.70: neither task's own best (5e-5 for demo, 2e-4 for SST-2) is the choice.
    found = only(tuned({5e-5: (0.9, 0.3), 1e-4: (0.7, 0.8), 2e-4: (0.5, 0.9)}))
    assert (found.task, found.tasks, found.grid) == ("default", ("demo", "sst2"), "tuned")
    assert found.values[0] == 1e-4 and found.score == pytest.approx(0.75) and found.untried is None


@pytest.mark.parametrize(("best", "next_one"), [(5e-5, 2e-5), (2e-4, 5e-4)])
def test_under_tuned_a_best_rate_at_the_edge_asks_for_the_next(best: float, next_one: float) -> None:
    found = only(tuned({rate: (0.5 + 0.1 * (rate == best),) * 2 for rate in (5e-5, 1e-4, 2e-4)}))
    assert (found.values[0], found.untried) == (best, next_one)


def test_under_tuned_every_rate_is_tried_on_every_task() -> None:
    records = tuned({5e-5: (0.5, 0.5), 1e-4: (0.6, 0.6), 2e-4: (0.5, 0.5)})
    with pytest.raises(RecipeError, match="not every rate was tried on sst2"):
        only([record for record in records if record is not records[3]])


def test_runs_that_share_further_settings_are_compared_when_these_are_named() -> None:
    records = [searched(rate, 0.5, "train.precision=bf16") for rate in (1e-5, 2e-5)]
    with pytest.raises(RecipeError, match="no search"):
        choose(records, "tiny_bert")
    assert only(records, settings=["train.precision=bf16"]).values[0] == 1e-5


# -- refusals -----------------------------------------------------------------------------------------------


def test_stale_records_are_refused_by_name() -> None:
    record = searched()
    stale = dataclasses.replace(record, versions=dataclasses.replace(record.versions, method=0))
    with pytest.raises(RecipeError, match=f"stale records, of older versions: {record.run_id};"):
        choose([stale, searched(1e-5)], "tiny_bert")


@pytest.mark.parametrize(("fact", "named"), [("data", "2 data sets"), ("weights", "2 weights")])
def test_records_of_different_data_or_weights_are_refused(fact: str, named: str) -> None:
    with pytest.raises(RecipeError, match=f"demo, low_k: the records come from {named}"):
        choose([searched(1e-5), searched(2e-5, **{fact: "other"})], "tiny_bert")


def test_no_records_are_no_recipe() -> None:
    with pytest.raises(RecipeError, match="no search of tiny_bert"):
        choose([], "tiny_bert")


def test_records_of_other_protocols_models_and_stages_are_not_read(tmp_path: Path) -> None:
    kept = searched()
    others = [searched(2e-5, 0.5, "protocol=smoke"), searched(2e-5, 0.5, "stage=score")]
    for record in (kept, *others):
        record.write(tmp_path / f"{record.run_id}.json")
    kept.write(tmp_path / f"tiny_bert_large{kept.run_id.removeprefix('tiny_bert')}.json")
    assert search_records(tmp_path, "tiny_bert") == [kept]


def test_a_damaged_record_is_named_and_the_others_are_chosen_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = searched()
    kept.write(tmp_path / f"{kept.run_id}.json")
    for name, content in (("empty", b""), ("half", kept.to_json().encode()[:80]), ("deep", b"[" * 100_000)):
        (tmp_path / f"tiny_bert-{name}.json").write_bytes(content)
    assert search_records(tmp_path, "tiny_bert") == [kept]
    assert all(f"tiny_bert-{name}.json" in caplog.text for name in ("empty", "half", "deep"))


def test_what_a_search_maximises_is_the_metric_of_the_task_after_the_last_epoch() -> None:
    run = plain_run(["model=tiny_bert", "task=demo", "method=low_k", "protocol=search"])
    record = searched(2e-5, 0.7)
    assert objective(run, record) == 0.7
    assert objective(run, searched(2e-5, None)) == float("-inf")
    assert objective(run, dataclasses.replace(record, metrics=None)) is None


# -- the file -----------------------------------------------------------------------------------------------

FOUND = RecipeEntry("rte", "lora", "fair", (2e-4, 5, 16), 0.71, (0, 42), ("run-a", "run-b"))


def test_a_recipe_keeps_what_it_says_of_others(tmp_path: Path) -> None:
    path = tmp_path / "bert.yaml"
    path.write_text(
        "rte:\n  lora:\n    paper: {learning_rate: 5e-5}\n  full: {epochs: 3}\ncola:\n  lora: {epochs: 10}\n"
    )
    write_recipe(path, [FOUND])
    tree = OmegaConf.to_container(OmegaConf.load(path))
    assert tree == {
        "cola": {"lora": {"epochs": 10}},
        "rte": {
            "full": {"epochs": 3},
            "lora": {
                "paper": {"learning_rate": 5e-5},
                "fair": {
                    "learning_rate": 2e-4,
                    "epochs": 5,
                    "batch_size": 16,
                    "score": 0.71,
                    "seeds": [0, 42],
                    "records": ["run-a", "run-b"],
                },
            },
        },
    }
    assert "scripts/choose_recipe.py bert" in path.read_text()
    before = path.read_bytes()
    write_recipe(path, [FOUND])
    assert path.read_bytes() == before
    fair, paper = build_recipe(tree, "fair"), build_recipe(tree, "paper")
    assert (fair["rte"]["lora"].learning_rate, fair["rte"]["lora"].batch_size) == (2e-4, 16)
    assert (paper["rte"]["lora"].learning_rate, paper["rte"]["lora"].batch_size) == (5e-5, None)


def test_an_entry_that_held_under_every_grid_still_holds_under_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bert.yaml"
    path.write_text("rte:\n  lora: {epochs: 3}\n")
    write_recipe(path, [FOUND])
    tree = OmegaConf.to_container(OmegaConf.load(path))
    assert build_recipe(tree, "paper")["rte"]["lora"].epochs == 3
    assert build_recipe(tree, "fair")["rte"]["lora"].epochs == 5


@pytest.mark.parametrize("content", ["- a\n", "rte: 3\n"])
def test_a_file_that_is_no_recipe_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bert.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match="task -> method -> values"):
        write_recipe(path, [FOUND])
    assert path.read_text() == content
