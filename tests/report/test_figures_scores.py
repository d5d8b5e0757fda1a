"""Scores found in records, their rank correlations, and the figures drawn from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from made_records import made, write

from layertune.config.compose import plain_run
from layertune.report.figures.scores import choices_figure, heat_maps
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import (
    between_tasks,
    chosen_layers,
    model_scores,
    rank_correlations,
    scored_tasks,
    within_tasks,
)
from layertune.report.spec import TableSpec, load_table

UP = (0.1, 0.2, 0.3, 0.4)  # tiny_bert has four layers
SWAPPED = (0.2, 0.1, 0.3, 0.4)


def scored(task, values, *more, examples=64, stage="score", run_id=None, **kept):
    """A record that holds scores; `more` are overrides, `kept` arguments of `made`."""
    overrides = ("model=tiny_bert", f"task={task}", "method=high_k", f"stage={stage}", *more)
    run = plain_run(overrides)
    record = made(run, run_id=run_id or f"tiny_bert-{task}-{len(more)}-{examples}-s{run.seed}", **kept)
    rows = tuple(
        tuple(1.0 if i == j else (a + b) / 2 for j, b in enumerate(values)) for i, a in enumerate(values)
    )
    selection = replace(record.selection, scores=values, std=(0.01,) * 4, matrix=rows, examples=examples)
    return replace(record, spec=replace(record.spec, overrides=overrides), selection=selection)


@pytest.fixture
def index(tmp_path):
    return lambda *records: RecordIndex.read(write(tmp_path, *records))


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(match=lambda one: hasattr(one, "get_text")))


def test_scores_are_found_by_task_the_largest_sample_first(index):
    small, large = scored("sst2", SWAPPED, "scoring.examples=16", examples=16), scored("sst2", UP)
    found = model_scores(index(small, large, scored("trec", UP)), "tiny_bert")
    assert [(one.examples, one.values) for one in found.by_task["sst2"]] == [(64, UP), (16, SWAPPED)]
    assert [one.task for one in found.first(["trec", "cola", "sst2"])] == ["trec", "sst2"]
    assert found.by_task["sst2"][0].sample == "64 of 64 training texts"


def test_seeds_with_the_same_numbers_are_one_vector_and_others_are_not(index):
    almost = (0.1 + 1e-9, *UP[1:])
    records = [scored("sst2", v, f"seed={s}") for s, v in ((0, UP), (42, almost), (100, SWAPPED))]
    found = model_scores(index(*records), "tiny_bert").by_task["sst2"]
    assert [one.seeds for one in found] == [(0, 42), (100,)]
    assert found[0].run_ids == ("tiny_bert-sst2-1-64-s0", "tiny_bert-sst2-1-64-s42")


@pytest.mark.parametrize("train", [3, 1, None])
def test_what_a_run_trains_afterwards_does_not_matter_to_its_scores(index, train):
    record = scored("sst2", UP, "train.epochs=7", stage="run")
    records = index(replace(record, versions=replace(record.versions, train=train)))
    assert records.stale() and not records.stale(trained=False)
    (found,) = model_scores(records, "tiny_bert").by_task["sst2"]
    assert (found.values, found.seeds, found.run_ids) == (UP, (0,), (record.run_id,))


@pytest.mark.parametrize(
    "change",
    [
        {"more": ("task.max_length=16",)},
        {"more": ("model.rep_norm=rms",)},
        {"status": "failed"},
        {"versions": "old"},
        {"more": ("model=minilm_l6",)},
    ],
)
def test_scores_of_another_question_are_left_out(index, change):
    more, status = change.get("more", ()), change.get("status", "done")
    record = scored("sst2", UP, *more, status=status)
    if "versions" in change:
        record = replace(record, versions=replace(record.versions, model=record.versions.model + 1))
    assert model_scores(index(record), "tiny_bert").by_task == {}


def test_a_record_whose_configuration_is_not_the_one_of_its_hash_is_left_out(index):
    record = scored("sst2", UP)
    forged = replace(record, config=record.config | {"seed": 5})
    assert model_scores(index(forged), "tiny_bert").by_task == {}


def test_scores_of_other_weights_are_left_out_and_named(index):
    records = [scored("sst2", UP), scored("trec", UP), scored("cr", UP, weights="sha256:other")]
    found = model_scores(index(*records), "tiny_bert")
    assert set(found.by_task) == {"sst2", "trec"}
    assert found.left_out == ("left out, of other weights: tiny_bert-cr-0-64-s0",)


def test_official_rows_come_before_more_rows_of_other_data(index):
    other = scored("sst2", UP, "train.epochs=2", examples=64, data="subset", run_id="tiny_bert-sst2-a")
    official = scored("sst2", SWAPPED, "scoring.examples=16", examples=16)
    found = model_scores(index(other, official), "tiny_bert").by_task["sst2"]
    assert [one.data_status for one in found] == ["official", "subset"]
    assert [one.title for one in found] == ["SST-2", "SST-2 ‡"]


def test_the_tasks_are_those_with_texts_of_their_own():
    encoder, decoder = scored_tasks("tiny_bert"), scored_tasks("tiny_gpt2")
    assert encoder[:3] == ["sst2", "sst5", "mr"] and len(encoder) == 19
    assert not {"demo", "sst2_imdb", "e2e", "average"} & set(encoder)
    assert "e2e" in decoder


def test_rank_correlations_by_hand():
    # One swap of neighbours: rho = 1 - 6 * (1 + 1) / (4 * 15) = 0.8; tau = (5 - 1) / 6 pairs.
    assert rank_correlations(UP, SWAPPED) == pytest.approx((0.8, 4 / 6))
    assert rank_correlations(UP, tuple(reversed(UP))) == pytest.approx((-1, -1))
    assert rank_correlations(UP, tuple(100 * v**3 for v in UP)) == pytest.approx((1, 1))
    with pytest.warns(RuntimeWarning, match="constant"):
        assert math.isnan(rank_correlations(UP, (0.5,) * 4)[0])


def test_pairs_are_of_two_tasks_or_of_two_samples_of_one(index):
    records = [scored(task, UP) for task in ("sst2", "trec", "cr")]
    records.append(scored("cr", SWAPPED, "scoring.examples=16", examples=16))
    found = model_scores(index(*records), "tiny_bert")
    pairs = between_tasks(found.first(["sst2", "trec", "cr"]))
    assert [(pair.one.task, pair.other.task, pair.kendall) for pair in pairs] == [
        ("sst2", "trec", pytest.approx(1)),
        ("sst2", "cr", pytest.approx(1)),
        ("trec", "cr", pytest.approx(1)),
    ]
    (sample,) = within_tasks(list(found.by_task.values()))
    assert (sample.one.task, sample.other.examples, sample.spearman) == ("cr", 16, pytest.approx(0.8))


def test_the_chosen_layers_are_those_of_the_methods():
    assert chosen_layers("high_k", UP) == (2, 3, 4)
    assert chosen_layers("low_k", UP) == (1, 2, 3)
    # Blocks of four layers for k = 3: (1, 2), (3), (4).
    assert chosen_layers("block_high", SWAPPED) == (1, 3, 4)
    assert chosen_layers("block_low", SWAPPED) == (2, 3, 4)


def test_the_figure_of_choices_says_how_many_tasks_agree_and_which_have_no_record(index):
    records = [scored("sst2", UP), scored("trec", UP), scored("cola", SWAPPED, data="own-split")]
    shown = texts(choices_figure(model_scores(index(*records), "tiny_bert")))
    assert "high_k\n2 3 4 for 2 of 3" in shown and "low_k\n1 2 3 for 3 of 3" in shown
    assert "block_low\n1 3 4 for 2 of 3" in shown
    assert shown.count("no record") == 4 * (19 - 3)
    assert "3 of 19 tasks have recorded scores." in shown
    assert "CoLA ‡" in shown and "SST-2 ‡" not in shown
    assert "Median (least) of two tasks: Spearman 0.80 (0.80), Kendall 0.67 (0.67)." in shown
    assert "samples\nof a task" in shown and "(0 pairs)" in shown


def test_the_figure_of_choices_without_any_record_invents_nothing(index):
    figure = choices_figure(model_scores(index(), "tiny_bert"))
    assert "0 of 19 tasks have recorded scores." in texts(figure)
    assert not any(axes.lines for axes in figure.axes)


def known(index):
    return {model: model_scores(index, model) for model in ("tiny_bert", "tiny_gpt2")}


def tiny_figure2(name="figure2") -> TableSpec:
    return load_table(name, model="tiny_bert", lm="tiny_gpt2")


def test_figure_2_draws_what_is_recorded_and_names_the_rest(index):
    records = [scored("sst2", UP), scored("cola", SWAPPED, "scoring.examples=16", examples=16)]
    figure = heat_maps(tiny_figure2(), known(index(*records)))
    shown = texts(figure)
    assert "Scores of 2 of 3 tasks recorded." in shown
    assert "QNLI, tiny_bert: no record holds\nthe scores of its layers" in shown
    assert "task=qnli" in shown and "stage=score" in shown
    assert "16 of 64 training texts" in shown and "64 of 64 training texts" in shown
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 2
    # Off the diagonal UP gives (0.1 + 0.2) / 2 ... (0.3 + 0.4) / 2: one scale for both panels.
    assert all(image.get_clim() == pytest.approx((0.15, 0.35)) for image in images)


def test_figure_3_stands_for_two_models(index):
    shown = texts(heat_maps(tiny_figure2("figure3"), known(index())))
    assert "Scores of 0 of 3 tasks recorded." in shown
    assert "MRPC, tiny_bert: no record" in shown and "E2E NLG, tiny_gpt2: no record" in shown
