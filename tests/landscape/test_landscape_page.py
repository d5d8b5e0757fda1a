"""`make landscape`: rules placed with their records, what is said of a landscape, and files that stay."""

from __future__ import annotations

import csv
import re
from itertools import combinations
from pathlib import Path

import pytest
from made_landscapes import GROUND, row, write
from tiny_runs import compose_tiny

from layertune.config.groups import looking_into
from layertune.errors import ConfigError
from layertune.landscape.page import write_landscapes
from layertune.landscape.rows import Ground, read_rows
from layertune.landscape.rules import lacking_scorers, rules, scored_by
from layertune.pipeline import execute
from layertune.records import Record, Store
from layertune.report.index import RecordIndex
from layertune.selection import SELECTORS


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a real scoring pass."""
    run = compose_tiny(tmp_path_factory.mktemp("scored"), "method=high_k", "method.k=2", "stage=score")
    return execute(run, Store(run.results_dir, run.outputs_dir))


def made(folder: Path, scored: Record) -> Path:
    """Two landscapes of pairs: the first follows the layers' numbers, the second is its reverse."""
    (folder / "scores").mkdir()
    scored.write(folder / "scores" / f"{scored.run_id}.json")
    pairs = list(combinations(range(1, 5), 2))
    for task, wrong in (("demo", lambda layers: 10 - sum(layers)), ("cr", sum)):
        ground = GROUND | {"task": task, "weights": scored.weights}
        rows = [row(layers, seed, wrong=range(wrong(layers) - seed)) for layers in pairs for seed in (0, 1)]
        if task == "demo":
            rows += [row((layer,), 0, wrong=range(5 - layer)) for layer in range(1, 5)]
        write(folder, ground, rows)
    return folder


@pytest.fixture
def results(tmp_path: Path, scored: Record) -> Path:
    """The two landscapes, to be changed."""
    return made(tmp_path, scored)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, scored: Record) -> Path:
    """The two landscapes and what `make landscape` writes of them, to be read."""
    folder = made(tmp_path_factory.mktemp("written"), scored)
    assert write_landscapes(folder)[-1] == folder / "landscapes" / "index.html"
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {line["rule"]: line for line in csv.DictReader(stream)}


def test_rules_are_placed_by_position_and_by_the_records_of_their_scores(written, scored):
    lines = table(written / "landscapes" / "tiny_bert-demo-00000000-k2.csv")
    placed = {name for name, line in lines.items() if line["percentile"]}
    # Every scorer's own methods follow from one record; elsa has a head of its own.
    assert placed == {
        *("random_k", "block_random", "top_k", "bottom_k", "auto"),
        *("high_k", "low_k", "block_high", "block_low", "block_median"),
    }
    assert (lines["top_k"]["layers"], lines["top_k"]["percentile"]) == ("3 4", "100.0")
    assert lines["bottom_k"]["percentile"] == "0.0" and float(lines["bottom_k"]["regret"]) == pytest.approx(
        0.4
    )
    assert (lines["random_k"]["layers"], lines["random_k"]["percentile"]) == ("", "50.0")
    # one of 1, 2 and one of 3, 4: (1, 3) 20, (1, 4) and (2, 3) 50 each, (2, 4) 80
    assert lines["block_random"]["percentile"] == "50.0"
    assert lines["auto"]["layers"] == "3 4"
    highest = SELECTORS["highest"](4, 2, scored.selection.scores, None)
    assert lines["high_k"]["layers"] == " ".join(map(str, highest))
    assert lines["high_k"]["scores_from"] == scored.run_id and lines["top_k"]["scores_from"] == ""


def test_every_rule_of_the_issue_is_a_row_and_what_is_lacking_has_its_command(results):
    path = results / "landscapes" / "tiny_bert-demo-00000000.jsonl"
    alone = [line for line in path.read_text().splitlines() if '"layers": [2]' not in line]
    path.write_text("\n".join(alone) + "\n")
    write_landscapes(results)
    named = {"random_k", "top_k", "bottom_k", "block_high", "block_low", "grad_norm_k", "variance_k", "auto"}
    named |= {f"{name}_k" for name in ("high", "low", "io_low", "io_high", "euclidean_high", "euclidean_low")}
    named |= {f"{name}_high_k" for name in ("spectrum", "block_influence", "angular", "cka", "fisher")}
    lines = table(path.with_name(f"{path.stem}-k2.csv"))
    assert named | {"weight_norm_high_k"} <= set(lines)
    assert lines["fisher_high_k"]["percentile"] == lines["auto"]["percentile"] == ""
    text = path.with_name(f"{path.stem}-k2.md").read_text()
    scoring = next(line for line in text.splitlines() if "stage=score" in line)
    assert (
        "model=tiny_bert task=demo" in scoring
        and "fisher_high_k" in scoring
        and "high_k,low_k" not in scoring
    )
    assert "hydra/sweeper=landscape model=tiny_bert task=demo seed=0,1 k=1`" in text  # for auto


def test_scores_of_other_weights_or_texts_choose_nothing(results, scored):
    ground = read_rows(results / "landscapes" / "tiny_bert-demo-00000000.jsonl")[0]
    index = RecordIndex([scored])

    def known(of: Ground, index: RecordIndex) -> set[str]:
        return {rule.name for rule in rules(of, 2, scored_by(of, index)) if rule.sets}

    by_position = {"random_k", "block_random", "top_k", "bottom_k"}
    assert known(ground, RecordIndex([])) == by_position < known(ground, index)
    for other in ({"weights": "w"}, {"task": "cr"}, {"num_layers": 5}):
        assert known(Ground(**{**vars(ground), **other}), index) == by_position
    lacking = lacking_scorers(scored_by(ground, index))
    assert "high_k" not in lacking and "fisher_high_k" in lacking and len(lacking) == len({*lacking})


def test_a_method_of_one_s_own_is_a_rule_by_the_few_lines_that_it_needs(results, scored, tmp_path):
    ground = read_rows(results / "landscapes" / "tiny_bert-demo-00000000.jsonl")[0]
    (mine := tmp_path / "mine" / "method").mkdir(parents=True)
    (mine / "mine_low.yaml").write_text("{kind: selected, scorer: cosine, selector: lowest, k: 3}")
    (mine / "mine_top.yaml").write_text("{kind: selected, selector: top, k: 3}")
    (mine / "mine_dotted.yaml").write_text("{kind: selected, selector: layertune.selection.bottom, k: 3}")
    with looking_into([tmp_path / "mine"]):
        by = scored_by(ground, RecordIndex([scored]))
        found = {rule.name: rule for rule in rules(ground, 2, by)}
        assert "mine_low" not in lacking_scorers(by)
    assert found["mine_low"].sets == found["low_k"].sets and found["mine_low"].title == "mine_low"
    assert (found["mine_top"].sets, found["mine_dotted"].sets) == (((3, 4),), ((1, 2),))


def test_the_page_says_what_there_is_to_gain_and_how_tasks_agree(written):
    page = (written / "landscapes" / "index.html").read_text()
    assert "order 6 sets alike by -1.00 (Spearman); the best of CR is number 6 on Demo." in page
    text = (written / "landscapes" / "tiny_bert-demo-00000000-k2.md").read_text()
    assert "6 of 6 sets, seeds 0, 1; " in text and "accuracy of 35.0 to 75.0; highest: layers 3, 4." in text
    # means 0.35 0.45 0.55 0.55 0.65 0.75: variance 0.02; the seeds of a set differ by 0.1: variance 0.005
    assert "over sets: 14.14; over seeds of one set: 7.07" in text
    assert "taken away: 13.23. Two seeds agree by r = 1.00." in text
    assert "explains 100 % of the variance" in text and "4: +15.00, 3: +5.00, 2: -5.00, 1: -15.00" in text


def test_a_landscape_that_lacks_sets_says_so(results):
    path = results / "landscapes" / "tiny_bert-demo-00000000.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"layers": [2, 4]' not in line]
    path.write_text("\n".join(lines) + "\n")
    write_landscapes(results)
    assert "Incomplete, 1 sets still" in path.with_name(f"{path.stem}-k2.md").read_text()
    assert "Incomplete" not in path.with_name(f"{path.stem}-k1.md").read_text()


def test_a_second_run_changes_no_byte(written):
    first = {
        path: path.read_bytes() for path in (written / "landscapes").iterdir() if path.suffix != ".jsonl"
    }
    assert {path.suffix for path in first} == {".csv", ".md", ".png", ".svg", ".html"}
    assert {path: path.read_bytes() for path in write_landscapes(written)} == first


def test_no_landscape_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="hydra/sweeper=landscape model=minilm_l6 task=trec k=3"):
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


def test_the_landscapes_of_this_repository_are_written_anew_as_they_stand(repo, tmp_path):
    for name in ("landscapes", "runs", "scores"):
        (tmp_path / name).mkdir()
        for path in (repo / "results" / name).glob("minilm_l6*.json*"):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    for path in write_landscapes(tmp_path):
        if path.suffix in (".csv", ".md"):
            assert path.read_bytes() == (repo / "results" / "landscapes" / path.name).read_bytes()
