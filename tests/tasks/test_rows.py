"""Rows: what tells two data sets apart, and what a draw keeps."""

from __future__ import annotations

import numpy as np
import pytest

from layertune.tasks.rows import Rows, draw, split_off


def rows(labels, *columns):
    return Rows(columns, np.array(labels))


def test_equal_rows_have_equal_fingerprints_whatever_holds_them():
    given = rows([0, 1], ["a", "b"])
    same = Rows((("a", "b"),), np.array([0, 1], dtype=np.int64)[:])
    assert given.fingerprint() == same.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        rows([1, 1], ["ab", "c"]),
        rows([0, 1], ["ab", "d"]),
        rows([0, 1], ["a", "bc"]),
        rows([1, 0], ["c", "ab"]),
        rows([0], ["ab"]),
        rows([0, 1], ["ab", "c"], ["", ""]),
    ],
    ids=["a label", "a text", "where texts end", "the order", "the count", "a column"],
)
def test_whatever_differs_is_in_the_fingerprint(other):
    assert other.fingerprint() != rows([0, 1], ["ab", "c"]).fingerprint()


def test_scores_of_a_regression_are_in_the_fingerprint():
    first, second = (rows(np.array([score], dtype=np.float32), ["a"]) for score in (2.5, 2.25))
    assert first.fingerprint() != second.fingerprint()


def test_a_draw_keeps_the_proportions_and_its_order_and_the_rest_is_all_else():
    labels = [0] * 60 + [1] * 30 + [2] * 10
    drawn = draw(np.array(labels), 20, seed=0)
    assert np.bincount(np.array(labels)[drawn]).tolist() == [12, 6, 2]
    assert drawn.tolist() == sorted(set(drawn.tolist())) != list(range(20))
    rest, held = split_off(rows(labels, [str(i) for i in range(100)]), 20, seed=0)
    assert held.texts[0] == [str(i) for i in drawn]
    assert sorted([*rest.texts[0], *held.texts[0]], key=int) == [str(i) for i in range(100)]
