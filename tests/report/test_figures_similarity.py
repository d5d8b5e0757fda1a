from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from layertune.report.figures import plot_similarity


def scores_of(count: int, matrix: bool = True) -> SimpleNamespace:
    rows = [[1.0 - 0.01 * abs(i - j) for j in range(count)] for i in range(count)]
    return SimpleNamespace(
        values=tuple(0.9 - 0.01 * i for i in range(count)),
        std=(0.01,) * count,
        matrix=rows if matrix else None,
    )


def test_the_heat_map_numbers_the_layers_from_one_and_marks_the_chosen(tmp_path):
    figure = plot_similarity(scores_of(12), (10, 11, 12), tmp_path / "map.png", title="a title")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    grid, points, bar = figure.axes
    assert [text.get_text() for text in grid.get_xticklabels()] == [str(n) for n in range(1, 13)]
    assert [text.get_text() for text in grid.get_yticklabels()] == [str(n) for n in range(1, 13)]
    for axis in (grid, points):
        bold = [t.get_text() for t in axis.get_yticklabels() if t.get_fontweight() == "bold"]
        assert bold == ["10", "11", "12"]
    assert bar.get_ylabel() == "mean cosine similarity"
    assert points.get_title() == "chosen: 10, 11, 12"
    shown = grid.images[0].get_array()
    assert shown.mask.diagonal().all() and shown[0, 11] == pytest.approx(0.89)


def test_scores_that_compare_no_layers_are_drawn_without_a_heat_map(tmp_path):
    figure = plot_similarity(scores_of(4, matrix=False), (1,), tmp_path / "map.svg", name="gradient norm")
    assert len(figure.axes) == 1
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_the_numbers_of_many_layers_are_thinned_not_shrunk(tmp_path):
    figure = plot_similarity(scores_of(26), (1,), tmp_path / "map.png")
    labels = figure.axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == [str(n) for n in range(2, 27, 2)]
    assert {text.get_fontsize() for text in labels} == {8.0}


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_scores_give_the_same_bytes(tmp_path, kind):
    for name in ("one", "other"):
        plot_similarity(scores_of(6), (1, 2), tmp_path / f"{name}.{kind}")
    one = (tmp_path / f"one.{kind}").read_bytes()
    assert one == (tmp_path / f"other.{kind}").read_bytes()
    assert b"dc:date" not in one and b"CreationDate" not in one


def test_the_last_bits_of_a_layout_do_not_reach_the_file(tmp_path):
    figure = plot_similarity(scores_of(6), (1, 2), tmp_path / "map.svg")
    for axes in figure.axes:
        bounds = axes.get_position(original=True).bounds
        assert bounds == pytest.approx([round(value, 5) for value in bounds], abs=1e-15)


def test_the_figures_import_neither_torch_nor_matplotlib():
    script = (
        "import sys, layertune.report.figures.write;"
        "sys.exit(len({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
