"""Figures 4 and 5, accuracy against cost, and the files on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_records import made, write
from matplotlib.text import Text

from layertune.report.figures import style
from layertune.report.figures.cost import cost_content, cost_figure, group_of, points_of
from layertune.report.figures.sweeps import sweeps
from layertune.report.figures.write import write_figures
from layertune.report.index import RecordIndex
from layertune.report.request import Request
from layertune.report.spec import load_table
from layertune.report.values import table_values

REQUEST = Request(model="tiny_bert", lm="tiny_gpt2")  # four layers: k is 1, 2 or 3


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(match=lambda one: hasattr(one, "get_text")))


def records_of(cell, score=0.5, seeds=None, **kept):
    """Records of a cell's own runs, scores a hundredth apart."""
    runs = [run for run in cell.own_runs() if seeds is None or run.seed in seeds]
    return [
        made(
            run,
            score + 0.01 * n,
            run_id=f"{cell.row.key}-{cell.column.key}-{run.seed}".replace("@", "-"),
            **kept,
        )
        for n, run in enumerate(runs)
    ]


def read(folder, spec, *groups):
    write(folder, *(record for group in groups for record in group))
    return table_values(spec, RecordIndex.read(folder))


@pytest.fixture
def spec():
    return REQUEST.table("figure4")


def test_a_sweep_draws_points_for_what_is_recorded_alone(tmp_path, spec):
    values = read(
        tmp_path,
        spec,
        records_of(spec.cell("full", "sst2"), 0.9),
        records_of(spec.cell("low_k@1", "sst2"), 0.6),
        records_of(spec.cell("low_k@3", "sst2"), 0.8, seeds=(0, 42)),
        records_of(spec.cell("full", "speedup"), step=0.5),
        records_of(spec.cell("high_k@2", "speedup"), step=0.25),
    )
    figure = sweeps(values, "the command")
    score, speed = figure.axes
    shown = texts(figure)
    assert "low_k: 1 of 3 k complete" in shown and "high_k: 0 of 3 k complete" in shown
    assert "full fine-tuning: 1" in shown and "To fill: the command" in shown
    assert [text.get_text() for text in score.texts] == ["2/3"]
    drawn = [box.lines[0].get_xydata()[0].tolist() for box in score.containers]
    assert drawn == [[pytest.approx(1.08), pytest.approx(61)], [pytest.approx(3.08), pytest.approx(80.5)]]
    assert [box.lines[0].get_markerfacecolor() for box in score.containers] == ["#d55e00", "white"]
    assert [box.lines[0].get_xydata()[0].tolist() for box in speed.containers] == [[1.92, 2.0]]
    assert score.get_ylabel() == "accuracy (%)"


def test_a_sweep_without_records_says_so_in_both_panels(tmp_path, spec):
    figure = sweeps(read(tmp_path, spec))
    assert texts(figure).count("no run recorded\n(7 missing of 7 points)") == 2
    assert not any(axes.lines or axes.containers for axes in figure.axes)


def cost_spec(task="sst2"):
    return load_table(f"cost_{task}", "tiny_bert", "tiny_gpt2", content=cost_content(task))


def test_costs_are_of_finished_methods_of_both_grids_and_count_the_runs(tmp_path):
    spec = cost_spec()
    values = read(
        tmp_path,
        spec,
        records_of(spec.cell("full@paper", "sst2"), 0.9, selected=None),
        records_of(spec.cell("low_k@paper", "sst2"), 0.8, seeds=(0,), selected=8.0, cached=5.0),
        records_of(spec.cell("lora@fair", "sst2"), 0.7, selected=None),
        records_of(spec.cell("lora@paper", "sst2"), status="failed", error="no", selected=None),
    )
    seconds = {point.label: point for point in points_of(values, "seconds")}
    assert set(seconds) == {"full", "low_k 1/3", "lora (fair)"}
    assert seconds["full"].cost == 50 and seconds["low_k 1/3"].cost == 50 + 8 + 5
    assert seconds["full"].score == pytest.approx(91) and seconds["full"].std == pytest.approx(1)
    assert seconds["low_k 1/3"].std is None
    parameters = {point.label: point.cost for point in points_of(values, "parameters")}
    assert parameters["full"] == pytest.approx(234e-6)  # millions
    figure = cost_figure(values)
    shown = texts(figure)
    assert "Failed: lora." in shown and "recap" in shown.split("No run yet:")[1]
    assert "seconds of training" in shown and "CPU seconds" not in shown
    assert shown.count("low_k 1/3") == 2  # once in each panel


def test_on_a_cpu_the_cost_is_in_cpu_seconds(tmp_path):
    spec = cost_spec()
    runs = records_of(spec.cell("full@paper", "sst2"), threads=1, selected=None)
    slow = [replace(run, training=replace(run.training, seconds=999.0, cpu_seconds=40.0)) for run in runs]
    values = read(tmp_path, spec, slow)
    assert [point.cost for point in points_of(values, "seconds")] == [40]
    assert "CPU seconds of training" in texts(cost_figure(values))


def test_another_device_gives_no_seconds_to_compare(tmp_path):
    spec = cost_spec()
    values = read(
        tmp_path,
        spec,
        records_of(spec.cell("full@paper", "sst2")),
        records_of(spec.cell("low_k@paper", "sst2"), device="GPU B"),
    )
    assert [point.label for point in points_of(values, "seconds")] == ["full"]
    assert {point.label for point in points_of(values, "parameters")} == {"full", "low_k"}


def test_a_point_far_below_stands_on_the_edge_with_its_number(tmp_path):
    spec = cost_spec()
    rows = (("full", 0.9), ("low_k", 0.88), ("high_k", 0.87), ("head_only", 0.3))
    groups = [records_of(spec.cell(f"{name}@paper", "sst2"), score) for name, score in rows]
    figure = cost_figure(read(tmp_path, spec, *groups))
    assert "head_only: 31.0" in texts(figure)
    assert figure.axes[0].get_ylim()[0] > 80


def test_the_spread_of_the_highest_point_lies_within_the_panel(tmp_path):
    spec = cost_spec()
    full = records_of(spec.cell("full@paper", "sst2"), 0.9)
    low_k = records_of(spec.cell("low_k@paper", "sst2"), 0.898)
    figure = cost_figure(read(tmp_path, spec, full, low_k))  # 91 ± 1 and 90.8 ± 1
    for axes in figure.axes[:2]:
        assert axes.get_ylim()[1] > 92.0


def test_contrast_is_that_of_the_standard():
    assert style.contrast("#000000") == pytest.approx(21) and style.contrast("#ffffff") == pytest.approx(1)
    assert style.contrast("#767676") == pytest.approx(4.54, abs=0.01)  # the palest grey that passes level AA
    assert style.ink("#767676") == "#767676" and style.contrast(style.ink("#e69f00")) >= 4.5


def test_every_text_of_a_figure_can_be_read(tmp_path, spec):
    values = read(tmp_path / "a", spec, records_of(spec.cell("low_k@2", "sst2"), seeds=(0,)))
    methods = ("full", "low_k", "random_k", "lora", "lisa")
    costs = cost_spec()
    groups = [records_of(costs.cell(f"{name}@paper", "sst2")) for name in methods]
    for figure in (sweeps(values), cost_figure(read(tmp_path / "b", costs, *groups))):
        found = [one for one in figure.findobj(Text) if one.get_text() and one.get_visible()]
        pale = {one.get_text(): one.get_color() for one in found if style.contrast(one.get_color()) < 4.5}
        assert len(found) > 10 and not pale


def test_methods_are_told_apart_by_their_kind():
    assert [group_of(name) for name in ("full", "block_low", "random_k", "lora", "lisa")] == [
        "full fine-tuning",
        "layers by cosine score",
        "layers by other rules",
        "added parameters",
        "other partial fine-tuning",
    ]


@pytest.mark.slow
def test_a_second_drawing_changes_no_byte(tmp_path):
    spec = cost_spec()
    groups = [records_of(spec.cell(f"{name}@paper", "sst2")) for name in ("full", "low_k")]
    write(tmp_path / "runs", *(record for group in groups for record in group))
    first = {path.name: path.read_bytes() for one in write_figures(REQUEST, tmp_path) for path in one.files}
    folder = tmp_path / "figures" / "tiny_bert"
    names = ("figure2", "figure4", "cost_sst2", "layers_by_task")  # nothing is recorded of Figures 3 and 5
    assert set(first) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.stem for path in folder.glob("*.png")} == {"figure2", "layers_by_task"}
    scores = (folder / "layers_by_task.csv").read_text()
    assert scores.startswith("task,data,examples,train,seeds,high_k,low_k,block_high,block_low")
    page = (folder.parent / REQUEST.folder / "index.html").read_text()
    shown = {"../tiny_bert/figure2", "figure4", "cost_sst2", "../tiny_bert/layers_by_task"}
    assert all(f'src="{name}.svg"' in page for name in shown)
    assert "Figure 3" in page and "figure3.svg" not in page  # named among those that are not drawn
    assert 'href="../../tables/index.html#tiny_bert-lm=tiny_gpt2"' in page and "claims/" not in page
    claims = tmp_path / "claims" / f"{REQUEST.folder}.md"
    claims.parent.mkdir()
    claims.touch()
    write_figures(REQUEST, tmp_path)
    assert f'href="../../claims/{claims.name}"' in (folder.parent / REQUEST.folder / "index.html").read_text()
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "figures").rglob("*.*g")}
    assert all(b"<dc:date>" not in content for content in first.values())


def test_without_records_nothing_is_drawn_and_what_was_is_removed(tmp_path):
    old = tmp_path / "figures" / "tiny_bert" / "figure2.png"
    old.parent.mkdir(parents=True)
    old.touch()
    page = tmp_path / "figures" / REQUEST.folder / "index.html"
    page.parent.mkdir()
    page.touch()
    assert {one.name: one.files for one in write_figures(REQUEST, tmp_path)} == {
        "figure2": (),
        "figure3": (),
        "figure4": (),
        "figure5": (),
    }
    assert not list(tmp_path.rglob("*.*g")) and not page.exists()


def test_a_wrong_request_is_one_sentence_and_exit_code_2(called, tmp_path):
    done = called("scripts/report.py", "figures", f"results_dir={tmp_path}", "model=bart")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "bart" in done.stderr
    assert not list(tmp_path.iterdir())
