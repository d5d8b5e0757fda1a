"""Rows from folders and from a hub that is played here: what is mapped, what is counted, what is refused."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from layertune.config.build import build_dataclass
from layertune.config.compose import compose_tree
from layertune.config.schema import TaskSpec
from layertune.errors import ConfigError, DataError
from layertune.tasks.hub import read_hub
from layertune.tasks.local import read_local


def task(name):
    tree = compose_tree(["model=tiny_bert", "method=full", f"task={name}"])["task"]
    return build_dataclass(TaskSpec, tree, "task")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trec").mkdir()
    return tmp_path


def manifest(folder, **entry):
    listed = {"rows": 2, "status": "own-split", **entry}
    (folder / "manifest.json").write_text(json.dumps({"files": {"trec/test.jsonl": listed}}))


# --- folders


def test_labels_without_a_manifest_are_in_the_canonical_order(folder):
    (folder / "trec" / "test.jsonl").write_text(
        lines([{"sentence": "a", "label": 2}, {"sentence": "b", "label": 0}])
    )
    rows, status = read_local(folder, task("trec"), "test")
    assert (rows.labels.tolist(), status) == ([2, 0], "local")


def test_labels_may_be_names(folder):
    (folder / "trec" / "test.csv").write_text("sentence,label\nwho,HUM\nwhere,LOC\n")
    rows, _ = read_local(folder, task("trec"), "test")
    assert rows.labels.tolist() == [3, 4]


def test_the_names_of_a_manifest_decide(folder):
    (folder / "trec" / "test.jsonl").write_text(
        lines([{"sentence": "a", "label": 0}, {"sentence": "b", "label": 3}])
    )
    manifest(folder, label_names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"])
    rows, status = read_local(folder, task("trec"), "test")
    assert (rows.labels.tolist(), status) == ([2, 3], "own-split")  # ABBR is canonical 2


def test_rows_that_the_manifest_does_not_announce_are_refused(folder):
    (folder / "trec" / "test.jsonl").write_text(lines([{"sentence": "a", "label": 0}] * 3))
    manifest(folder)
    with pytest.raises(DataError, match=r"test\.jsonl has 3 rows and 2 are expected"):
        read_local(folder, task("trec"), "test")


def test_other_label_counts_than_announced_are_refused(folder):
    (folder / "trec" / "test.jsonl").write_text(lines([{"sentence": "a", "label": 0}] * 2))
    manifest(folder, label_counts={"0": 1, "1": 1})
    with pytest.raises(DataError, match="label counts"):
        read_local(folder, task("trec"), "test")


def test_other_bytes_than_announced_are_refused(folder):
    (folder / "trec" / "test.jsonl").write_text(lines([{"sentence": "a", "label": 0}] * 2))
    manifest(folder, sha256="0" * 64)
    with pytest.raises(DataError, match=r"test\.jsonl"):
        read_local(folder, task("trec"), "test")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a", "label": 0}, "sentence"),
        ({"sentence": "a"}, "label"),
        ({"sentence": "a", "label": 6}, "label 6; allowed are 0 to 5"),
        ({"sentence": "a", "label": "WHO"}, "'WHO'"),
        ({"sentence": None, "label": 0}, "row 1 (line 1) has no text"),
        ({"sentence": "a", "label": None}, "no label"),
    ],
)
def test_bad_rows_are_refused_by_file_and_row(folder, row, words):
    (folder / "trec" / "test.jsonl").write_text(lines([row]))
    with pytest.raises(DataError, match=r"test\.jsonl") as error:
        read_local(folder, task("trec"), "test")
    assert words in str(error.value)


def test_an_empty_sentence_is_kept(folder):
    (folder / "trec" / "test.jsonl").write_text(lines([{"sentence": "", "label": 0}]))
    assert list(read_local(folder, task("trec"), "test")[0].texts[0]) == [""]


def test_further_columns_are_ignored_with_a_warning(folder, caplog):
    (folder / "trec" / "test.jsonl").write_text(lines([{"sentence": "a", "label": 0, "source": "x"}]))
    assert len(read_local(folder, task("trec"), "test")[0]) == 1
    assert "source" in caplog.text


def test_half_a_parquet_file_is_named(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "trec" / "test.parquet"
    pq.write_table(pa.table({"sentence": ["a"] * 500, "label": [0] * 500}), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"test\.parquet"):
        read_local(folder, task("trec"), "test")


def test_a_tsv_file_is_read_without_quoting(folder):
    (folder / "trec" / "test.tsv").write_text('sentence\tlabel\nhe said "no\tHUM\n')
    assert list(read_local(folder, task("trec"), "test")[0].texts[0]) == ['he said "no']


def test_a_missing_file_lists_what_was_looked_for(folder):
    with pytest.raises(ConfigError, match=r"test\.parquet, test\.csv, test\.tsv, test\.jsonl"):
        read_local(folder, task("trec"), "test")


def test_real_files_have_the_announced_rows(shared_data):
    listed = json.loads((shared_data / "manifest.json").read_text())["files"]
    for name in ("trec", "cr", "subj", "mrpc", "stsb", "cola", "rte"):
        spec = task(name)
        for split in (spec.train_split, spec.eval_split):
            rows, status = read_local(shared_data, spec, split)
            entry = listed[f"{name}/{split}.parquet"]
            assert (len(rows), status) == (entry["rows"], entry["status"])


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """Play the hub: `hub(split -> Dataset)`; returns the calls it got."""

    def serve(**splits):
        calls = []

        def load_dataset(name, config=None, *, data_files=None, split=None, revision=None):
            calls.append(
                {"id": name, "config": config, "split": split, "revision": revision, "files": data_files}
            )
            return splits[split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    monkeypatch.setattr("layertune.tasks.hub.why_no_answer", lambda: None)
    return serve


def table(features=None, **columns):
    return datasets.Dataset.from_dict(columns, features=features)


def uncounted(name, **changes):
    from dataclasses import replace

    spec = task(name)
    return replace(spec, counts={}, hub=replace(spec.hub, counts={}), **changes)


def test_trec_is_mapped_by_name_to_the_canonical_order(hub):
    names = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "coarse_label": datasets.ClassLabel(names=names)}
    )
    calls = hub(test=table(features, text=list("abcdef"), coarse_label=[0, 1, 2, 3, 4, 5]))
    rows, status, revision = read_hub(uncounted("trec"), "test")
    assert (rows.labels.tolist(), status) == ([2, 1, 0, 3, 4, 5], "official")
    assert revision == task("trec").hub.revision
    assert calls[0]["id"] == "CogComp/trec" and calls[0]["revision"].startswith("65752bf")


def test_another_numbering_on_the_hub_is_refused(hub):
    names = ["DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "coarse_label": datasets.ClassLabel(names=names)}
    )
    hub(test=table(features, text=["a"], coarse_label=[0]))
    with pytest.raises(DataError, match="numbers its labels DESC"):
        read_hub(uncounted("trec"), "test")


def test_subj_is_turned_round(hub):
    hub(test=table(text=["fact", "view"], label=[0, 1], label_text=["objective", "subjective"]))
    assert read_hub(uncounted("subj"), "test")[0].labels.tolist() == [1, 0]


def test_snli_rows_without_a_gold_label_are_dropped(hub):
    hub(validation=table(premise=["a", "b", "c"], hypothesis=["x", "y", "z"], label=[2, -1, 0]))
    rows, *_ = read_hub(uncounted("snli"), "validation")
    assert (rows.labels.tolist(), [list(column) for column in rows.texts]) == (
        [2, 0],
        [["a", "c"], ["x", "z"]],
    )


def test_cr_is_pooled_and_redrawn_the_same_way_each_time(hub):
    from dataclasses import replace

    spec = uncounted("cr")
    spec = replace(spec, hub=replace(spec.hub, test_size=40))
    words = [f"w{i}" for i in range(100)]
    hub(
        train=table(text=words[:90], label=[i % 2 for i in range(90)]),
        test=table(text=words[90:], label=[i % 2 for i in range(90, 100)]),
    )
    train, status, _ = read_hub(spec, "train")
    test, *_ = read_hub(spec, "test")
    assert (len(train), len(test), status) == (60, 40, "own-split")
    assert set(train.texts[0]) | set(test.texts[0]) == set(words)
    assert test.labels.mean() == 0.5
    assert np.array_equal(read_hub(spec, "test")[0].labels, test.labels)


def test_olid_strings_are_labels(hub):
    hub(test=table(tweet=["a", "b"], subtask_a=["OFF", "NOT"]))
    assert read_hub(uncounted("olid"), "test")[0].labels.tolist() == [1, 0]


def test_other_counts_than_announced_are_refused_on_the_hub(hub):
    hub(test=table(text=["a"], coarse_label=[0]))
    with pytest.raises(DataError, match="1 rows and 500 are expected"):
        read_hub(task("trec"), "test")


def test_a_column_that_is_not_there_is_named(hub):
    hub(test=table(question=["a"], coarse_label=[0]))
    with pytest.raises(DataError, match="has no column text"):
        read_hub(uncounted("trec"), "test")


def test_another_revision_in_the_cache_than_the_pinned_one_is_refused(hub, tmp_path):
    pinned = task("trec").hub.revision
    for revision in (pinned, "0" * 40):
        folder = tmp_path / revision
        folder.mkdir()
        table(text=["a"], coarse_label=[0]).save_to_disk(str(folder))
        (folder / "data-00000-of-00001.arrow").rename(folder / "cached.arrow")
        hub(test=datasets.Dataset.from_file(str(folder / "cached.arrow")))
        if revision == pinned:
            assert len(read_hub(uncounted("trec"), "test")[0]) == 1
        else:
            with pytest.raises(DataError, match=f"0{{40}} and {pinned} is pinned"):
                read_hub(uncounted("trec"), "test")


def test_a_hub_out_of_reach_names_the_three_ways_out(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as error:
        read_hub(task("rte"), "validation")
    assert all(word in str(error.value) for word in ("HF_HOME", "data_dir=<folder>", "task=demo"))
