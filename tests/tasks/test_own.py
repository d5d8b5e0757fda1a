"""Data of one's own: what is read, found, warned of and refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tiny_runs import compose_tiny

from layertune.errors import ConfigError, DataError
from layertune.models import load_tokenizer
from layertune.pipeline import execute
from layertune.records import Store
from layertune.tasks import load_task

REVIEWS = [
    (f"a {word} film, number {i}", stars) for i in range(15) for word, stars in (("good", 5), ("bad", 1))
]


@pytest.fixture
def load(tmp_path):
    """Load `own.train=<file>` as a run does; options are further overrides."""

    def read(file, *options, method="low_k"):
        given = (f"own.train='{tmp_path / file}'", *options)
        run = compose_tiny(tmp_path, "task=own", f"method={method}", "method.k=2", "protocol=quick", *given)
        return load_task(run, *load_tokenizer(run.model))

    return read


def csv_of(path, rows, header=("text", "label"), separator=",", start=""):
    lines = [separator.join(f'"{value}"' for value in row) for row in (header, *rows)]
    path.write_text(start + "\n".join(lines) + "\n", encoding="utf-8")


def test_labels_are_found_and_a_stratified_tenth_is_held_out(tmp_path, load, caplog):
    caplog.set_level(logging.INFO)
    csv_of(tmp_path / "reviews.csv", REVIEWS, ("review", "stars"))
    data = load("reviews.csv", "own.text=review", "own.label=stars")
    assert data.provenance.labels == ("1", "5") and data.num_outputs == 2
    assert data.provenance.counts == {"train": 27, "own": 3} and "held-out" in data.provenance.status
    assert np.bincount(data.train.store.labels).tolist() in ([13, 14], [14, 13])
    assert "held out" in caplog.text and "1 (15), 5 (15)" in caplog.text


def test_every_format_gives_the_same_rows(tmp_path, load):
    texts, labels = zip(*REVIEWS, strict=True)
    csv_of(tmp_path / "a.csv", REVIEWS)
    csv_of(tmp_path / "excel.CSV", REVIEWS, separator=";", start="\ufeff")
    csv_of(tmp_path / "tabs.csv", REVIEWS, separator="\t")
    (tmp_path / "b.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *REVIEWS]))
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": t, "label": s}) for t, s in REVIEWS))
    table = pyarrow.table({"text": texts, "label": [float(label) for label in labels]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    found = [load(name) for name in ("a.csv", "excel.CSV", "tabs.csv", "b.tsv", "c.jsonl", "d.parquet")]
    assert len({data.provenance.fingerprint_sha256 for data in found}) == 1
    assert all(data.provenance.labels == ("1", "5") for data in found)


def test_columns_with_spaces_and_letters_of_any_language_pairs_and_booleans(tmp_path, load):
    rows = [(f"is it {i}", f"it is {i}", str(i % 2 == 0).lower()) for i in range(20)]
    csv_of(tmp_path / "pairs.csv", rows, ("die Frage, ganz, im Wortlaut", "réponse", "wahr?"), separator=";")
    options = ("own.text='die Frage, ganz, im Wortlaut'", "own.text2='réponse'", "own.label='wahr?'")
    data = load("pairs.csv", *options)
    assert data.provenance.labels == ("false", "true")
    csv_of(tmp_path / "dev.csv", rows[:4], ("die Frage, ganz, im Wortlaut", "réponse", "wahr?"))
    data = load("pairs.csv", f"own.eval='{tmp_path / 'dev.csv'}'", *options)
    assert data.provenance.counts == {"train": 20, "own": 4}
    first = data.evals["own"].store.ids[: data.evals["own"].store.offsets[1]]
    assert load_tokenizer(compose_tiny(tmp_path).model)[0].decode(first).count("[SEP]") == 2


def test_numbers_are_sorted_as_numbers_and_predicted_where_asked(tmp_path, load):
    csv_of(tmp_path / "r.csv", [(f"text {i}", (2, 10, 1)[i % 3]) for i in range(30)])
    assert load("r.csv").provenance.labels == ("1", "2", "10")
    data = load("r.csv", "own.regression=true")
    assert (data.kind, data.num_outputs, data.provenance.labels) == ("regression", 1, ())
    assert sorted(set(data.train.store.labels.tolist())) == [1.0, 2.0, 10.0]


def test_what_a_person_would_want_to_know_is_said(tmp_path, load, caplog):
    csv_of(tmp_path / "train.csv", [*REVIEWS, ("", 5), ("  ", 1), ("the only one", 3)])
    csv_of(tmp_path / "dev.csv", [*REVIEWS[:2], ("a new one", 4)])
    data = load("train.csv", f"own.eval={tmp_path / 'dev.csv'}")
    assert data.provenance.labels == ("1", "3", "4", "5") and data.provenance.counts["train"] == 31
    for words in (
        "2 rows without text",
        "one training row: 3",
        "no training row: 4",
        "2 of 3 evaluation rows",
    ):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("rows", "header", "word"),
    [
        (REVIEWS, ("text", "labels"), "Did you mean 'labels'"),
        (REVIEWS, ("txt", "label"), "txt"),
        ([(f"text {i}", "yes") for i in range(9)], ("text", "label"), "one label"),
        ([(f"text {i}", f"words {i}") for i in range(60)], ("text", "label"), "free text"),
        ([(f"text {i}", i / 7) for i in range(60)], ("text", "label"), "own.regression=true"),
        ([*REVIEWS, ("text", "")], ("text", "label"), "no label"),
        ([("", 1), (" ", 2)], ("text", "label"), "no row with text"),
        ([], ("text", "label"), "no row with text"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_sentence(tmp_path, load, rows, header, word):
    csv_of(tmp_path / "bad.csv", rows, header)
    with pytest.raises(DataError, match=word):
        load("bad.csv")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "own.train"),
        (("own.train=nowhere.csv",), "nowhere.csv"),
        (("own.train=letter.docx",), "letter.docx"),
        (("own.train=a.csv", "own.label=text"), "twice"),
    ],
)
def test_a_request_without_files_or_columns_is_refused_before_anything_is_loaded(tmp_path, options, word):
    with pytest.raises(ConfigError, match=word):
        compose_tiny(tmp_path, "task=own", "method=low_k", *options)


def test_columns_are_part_of_what_a_run_is(tmp_path):
    csv_of(tmp_path / "r.csv", [(*row, row[1]) for row in REVIEWS], ("text", "label", "other"))
    ids = [
        compose_tiny(tmp_path, "task=own", f"own.train={tmp_path / 'r.csv'}", "method=full", *more).run_id
        for more in ((), ("own.label=other",), ("own.regression=true",))
    ]
    assert len(set(ids)) == 3 and all(one.startswith("tiny_bert-own-full") for one in ids)


def test_a_run_on_a_file_of_one_s_own_ends_in_a_record(tmp_path):
    csv_of(tmp_path / "r.csv", REVIEWS)
    run = compose_tiny(
        tmp_path, "task=own", f"own.train={tmp_path / 'r.csv'}", "method=low_k", "method.k=2", "train=fast"
    )
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.data.labels == ("1", "5")
    assert str(tmp_path) not in record.to_json()
    assert set(record.metrics.last["own"]) == {"accuracy", "f1_macro"}


def test_a_file_of_evaluation_rows_does_not_go_with_a_data_set_of_the_hub(tmp_path):
    with pytest.raises(ConfigError, match="own splits"):
        compose_tiny(tmp_path, "task=own", "own.train=someone/reviews", "own.eval=dev.csv", "method=full")


def test_a_data_set_of_the_hub_is_read_by_its_id(tmp_path, loopback_hub):
    rows = "".join(json.dumps({"text": text, "label": str(stars)}) + "\n" for text, stars in REVIEWS).encode()
    files = {"train.jsonl": rows, "test.jsonl": rows[: rows.index(b"\n", 300) + 1], "README.md": b"# rows\n"}
    loopback_hub.repositories["datasets", "someone/reviews"] = ("c" * 40, files)
    run = compose_tiny(tmp_path, "task=own", "own.train=someone/reviews", "method=full", "protocol=quick")
    data = load_task(run, *load_tokenizer(run.model))
    assert data.provenance.source == "hub:someone/reviews" and data.provenance.labels == ("1", "5")
    assert data.provenance.counts["train"] == 30 and data.provenance.counts["own"] < 10
