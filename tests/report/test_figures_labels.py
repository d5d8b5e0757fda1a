from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from layertune.report.figures.labels import Label, best_place, candidates, label_points, line_boxes, overlaps


def overlap(one, other):
    return float(overlaps(np.array([one]), np.array([other]))[0, 0])


def test_boxes_share_the_area_in_which_they_lie_on_each_other():
    assert overlap((0, 0, 4, 3), (1, 1, 10, 10)) == 3 * 2
    assert overlap((0, 0, 4, 3), (4, 0, 8, 3)) == 0
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_the_nearest_place_is_right_of_the_point_and_a_taken_one_is_passed_over():
    panel = (0, 0, 500, 500)
    free = best_place((100, 100), candidates(100, 100, 40, 10, 1.0), [], panel, 1.0)
    assert free == (0.0, 7, (107, 95, 147, 105))
    cost, _, box = best_place((100, 100), candidates(100, 100, 40, 10, 1.0), [free[2]], panel, 1.0)
    assert cost == 0 and overlap(box, free[2]) == 0


def test_no_place_outside_the_panel_is_taken_while_one_inside_is_free():
    cost, _, box = best_place((95, 50), candidates(95, 50, 40, 10, 1.0), [], (0, 0, 100, 100), 1.0)
    assert cost == 0 and box[2] <= 100


def test_a_crowded_place_is_chosen_by_what_it_covers_least():
    options = [(7.0, (0, 0, 10, 10)), (7.0, (0, 6, 10, 16))]
    assert best_place((0, 0), options, [(0, 0, 10, 8)], (0, 0, 20, 20), 1.0) == (20, 7.0, (0, 6, 10, 16))


def test_the_line_to_a_far_label_ends_where_the_label_begins():
    boxes = line_boxes(0, 0, (100, -5, 140, 5), start=10)
    centres = [(left + right) / 2 for left, _, right, _ in boxes]
    assert min(centres) >= 10 and max(centres) < 100 and len(boxes) > 20


@pytest.mark.parametrize("count", [5, 25])
def test_labels_of_crowded_points_lie_on_nothing_and_inside(count):
    figure = Figure(figsize=(7, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    labels = [Label(5 + 0.4 * (n % 5), 5 + 0.4 * (n // 5), f"method {n}", "black") for n in range(count)]
    placed = label_points(figure, axes, labels)
    assert [text for text, _ in placed] == [f"method {n}" for n in range(count)]
    assert all(overlap(one, other) == 0 for (_, one), (_, other) in combinations(placed, 2))
    window = axes.get_window_extent()
    for _, (left, bottom, right, top) in placed:
        assert window.x0 <= left and right <= window.x1 and window.y0 <= bottom and top <= window.y1
