"""`make landscape`: rules placed with their records, what is said of a landscape, and files that stay."""

from __future__ import annotations

import csv
import re
from itertools import combinations
from pathlib import Path

import pytest
from made_landscapes import GROUND, row, write
from tiny_runs import compose_tiny

from layertune.errors import ConfigError
from layertune.landscape.page import write_landscapes
from layertune.landscape.rows import Ground, read_rows
from layertune.landscape.rules import choices, lacking_scorers
from layertune.pipeline import execute
from layertune.records import Record, Store
from layertune.report.index import RecordIndex
from layertune.selection import SELECTORS


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a real scoring pass."""
    run = compose_tiny(tmp_path_factory.mktemp("scored"), "method=high_k", "method.k=2", "stage=score")
    return execute(run, Store(run.results_dir, run.outputs_dir))


@pytest.fixture
def results(tmp_path: Path, scored: Record) -> Path:
    """Two landscapes of pairs: the first follows the layers' numbers, the second is its reverse."""
    (tmp_path / "scores").mkdir()
    scored.write(tmp_path / "scores" / f"{scored.run_id}.json")
    pairs = list(combinations(range(1, 5), 2))
    for task, wrong in (("demo", lambda layers: 10 - sum(layers)), ("cr", sum)):
        ground = GROUND | {"task": task, "weights": scored.weights}
        rows = [row(layers, seed, wrong=range(wrong(layers) - seed)) for layers in pairs for seed in (0, 1)]
        rows += [row((layer,), 0, wrong=range(5 - layer)) for layer in range(1, 5)]
        write(tmp_path, ground, rows)
    return tmp_path


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {line["method"]: line for line in csv.DictReader(stream)}


def test_rules_are_placed_by_position_and_by_the_records_of_their_scores(results, scored):
    write_landscapes(results)
    lines = table(results / "landscapes" / "tiny_bert-demo-00000000-k2.csv")
    # Every scorer's own methods follow from one record; scorers without one are left out, elsa has its head.
    assert set(lines) == {
        "random_k", "top_k", "bottom_k", "high_k", "low_k", "block_high", "block_low", "block_median", "auto"
    }  # fmt: skip
    assert (lines["top_k"]["layers"], lines["top_k"]["percentile"]) == ("3 4", "100.0")
    assert (lines["bottom_k"]["percentile"], lines["bottom_k"]["regret"]) == ("0.0", "40.0")
    assert (lines["random_k"]["layers"], lines["random_k"]["percentile"]) == ("any", "50.0")
    assert lines["auto"]["layers"] == "3 4"
    highest = SELECTORS["highest"](4, 2, scored.selection.scores, None)
    assert lines["high_k"]["layers"] == " ".join(map(str, highest))
    assert lines["high_k"]["scores_from"] == scored.run_id and lines["top_k"]["scores_from"] == ""


def test_scores_of_other_weights_or_texts_choose_nothing(results, scored):
    ground = read_rows(results / "landscapes" / "tiny_bert-demo-00000000.jsonl")[0]
    index = RecordIndex([scored])

    def methods(of: Ground, index: RecordIndex) -> set[str]:
        return {choice.method for choice in choices(of, 2, index)}

    by_position = {"random_k", "top_k", "bottom_k"}
    assert methods(ground, RecordIndex([])) == by_position < methods(ground, index)
    for other in ({"weights": "w"}, {"task": "cr"}, {"num_layers": 5}):
        assert methods(Ground(**{**vars(ground), **other}), index) == by_position
    assert "high_k" not in lacking_scorers(ground, index) and "fisher_high_k" in lacking_scorers(
        ground, index
    )


def test_the_page_says_what_there_is_to_gain_and_how_tasks_agree(results):
    files = write_landscapes(results)
    page = (results / "landscapes" / "index.html").read_text()
    assert files[-1] == results / "landscapes" / "index.html"
    assert "order 6 sets alike by -1.00 (Spearman); the best of cr is number 6 on demo." in page
    text = (results / "landscapes" / "tiny_bert-demo-00000000-k2.md").read_text()
    assert "6 of 6 sets, seeds 0, 1; accuracy of 35.0 to 75.0; highest: layers 3, 4." in text
    # means 0.35 0.45 0.55 0.55 0.65 0.75: variance 0.02; the seeds of a set differ by 0.1: variance 0.005
    assert "over sets: 14.14; over seeds of one set: 7.07" in text
    assert "taken away: 13.23. Two seeds agree by r = 1.00." in text
    assert "explains 100 % of the variance" in text and "4: +15.00, 3: +5.00, 2: -5.00, 1: -15.00" in text
    assert "stage=score" in text and "fisher_high_k" in text


def test_a_landscape_that_lacks_sets_says_so(results):
    path = results / "landscapes" / "tiny_bert-demo-00000000.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"layers": [2, 4]' not in line]
    path.write_text("\n".join(lines) + "\n")
    write_landscapes(results)
    assert "Incomplete, 1 still to be trained" in path.with_name(f"{path.stem}-k2.md").read_text()
    assert "Incomplete" not in path.with_name(f"{path.stem}-k1.md").read_text()


def test_a_second_run_changes_no_byte(results):
    first = {path: path.read_bytes() for path in write_landscapes(results)}
    assert {path.suffix for path in first} == {".csv", ".md", ".png", ".svg", ".html"}
    assert {path: path.read_bytes() for path in write_landscapes(results)} == first


def test_no_landscape_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="hydra/sweeper=landscape"):
        write_landscapes(tmp_path)


def test_the_rule_of_the_document_is_placed(repo, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (repo / "docs" / "landscape.md").read_text(), flags=re.S)
    sets = list(combinations(range(1, 7), 3))
    rows = [row(layers, 0, wrong=range(20 - sum(layers)), rows=20) for layers in sets]
    (tmp_path / "results").mkdir()
    write(
        tmp_path / "results",
        GROUND | {"model": "minilm_l6", "task": "trec", "num_layers": 6, "gold": [1] * 20},
        rows,
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/landscape.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Placed(layers=(2, 4, 6), score=0.6, percentile=")
    # sums below 9: 6, 7, 8, 8 and of 9 two others beside (2, 3, 4): (4 + 2 / 2) / 19
    assert float(said[1]) == pytest.approx(100 * 5 / 19)
