"""The same rows from every file format, or the same sentence; a damaged file is named with its line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from layertune.config.compose import compose_run
from layertune.errors import DataError
from layertune.models import load_tokenizer
from layertune.tasks import load_task
from layertune.tasks.local import read_local

TEXTS = [
    "a good film",
    'he said "no"',
    "one, two",
    "",
    " spaced ",
    "naïve 映画 😀",
    "\ufeffmarked",
    "a\u2028b",
]
LABELS = ["positive", "negative"] * 4


@pytest.fixture(scope="module")
def sst2():
    return compose_run("model=tiny_bert", "task=sst2", "method=low_k", "protocol=smoke")


@pytest.fixture
def read(tmp_path, sst2):
    """Write the content of one file, named by its suffix, and read it as the train split of SST-2."""

    def write_and_read(name, content):
        path = tmp_path / "sst2" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return read_local(tmp_path, sst2.task, "train")[0]

    return write_and_read


def write_csv(path, rows, **dialect):
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, **dialect).writerows([("sentence", "label"), *rows])


def write_tsv(path, rows):
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows]), "utf-8")


def write_jsonl(path, rows):
    lines = [json.dumps({"sentence": text, "label": label}) for text, label in rows]
    path.write_text("\n".join(lines), "utf-8")


def write_parquet(path, rows):
    texts, labels = zip(*rows, strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"sentence": texts, "label": labels}), path)


WRITERS = {".csv": write_csv, ".tsv": write_tsv, ".jsonl": write_jsonl, ".parquet": write_parquet}


def loaded(folder, run, rows, suffix):
    """Write rows as both splits in one format and load them as a run does."""
    (folder / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        WRITERS[suffix](folder / "sst2" / f"{split}{suffix}", rows)
    run = replace(run, data_dir=str(folder), outputs_dir=str(folder / "out"))
    return load_task(run, *load_tokenizer(run.model))


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
def test_the_same_rows_are_the_same_tokens_in_every_format(tmp_path, model):
    run = compose_run(f"model={model}", "task=sst2", "method=low_k", "protocol=smoke")
    rows = list(zip(TEXTS, LABELS, strict=True))
    datas = [loaded(tmp_path / suffix[1:], run, rows, suffix) for suffix in WRITERS]
    assert len({data.provenance.fingerprint_sha256 for data in datas}) == 1
    for data in datas:
        assert data.train.store.ids.tolist() == datas[0].train.store.ids.tolist()
        assert data.train.store.offsets.tolist() == datas[0].train.store.offsets.tolist()
        assert data.train.store.labels.tolist() == [1, 0] * 4


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [([0, 1], True), (["0", "1"], True), ([0.0, 1.0], True), ([False, True], False), ([0.5, 1], False)],
)
def test_a_number_is_the_same_label_in_every_format(tmp_path, sst2, labels, allowed):
    for suffix, write in WRITERS.items():
        folder = tmp_path / suffix[1:]
        (folder / "sst2").mkdir(parents=True)
        write(folder / "sst2" / f"train{suffix}", list(zip(["a", "b"], labels, strict=True)))
        if allowed:
            assert read_local(folder, sst2.task, "train")[0].labels.tolist() == [0, 1]
        else:
            with pytest.raises(DataError, match="row 1"):
                read_local(folder, sst2.task, "train")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "sentence,label\na,1\n\nb,0\n\n"),
        ("train.csv", "\n  \nsentence,label\r\na,1\r\nb,0\r\n\r\n"),
        ("train.csv", "\ufeffsentence,label\na,1\nb,0"),
        ("train.tsv", "\ufeffsentence\tlabel\na\t1\nb\t0\n\n"),
        ("train.jsonl", '\ufeff{"sentence": "a", "label": 1}\n\n{"sentence": "b", "label": 0}\n  \n'),
        ("train.jsonl", '{"sentence": "a", "label": 1, "note": 3}\r\n{"label": 0, "sentence": "b"}\r\n'),
    ],
)
def test_blank_lines_marks_and_keys_that_nobody_reads_change_nothing(read, name, content):
    rows = read(name, content)
    assert (list(rows.texts[0]), rows.labels.tolist()) == (["a", "b"], [1, 0])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", 'sentence,label\na,1\n"Great" he said,1\n', ["line 3", "quote"]),
        ("train.csv", 'sentence,label\n"a\nb",1\n"never closed,1\nc,0\n', ["line 4"]),
        ("train.csv", "sentence,label\na,1\nb, c,0\n", ["line 3", "3 fields"]),
        ("train.csv", "sentence,label,label\na,1,1\n", ["'label'", "more than once"]),
        ("train.csv", b"sentence,label\na,1\ncaf\xe9,1\n", ["line 3", "UTF-8"]),
        ("train.csv", "sentence,label\na,1\n".encode("utf-16"), ["line 1", "UTF-8"]),
        ("train.csv", "", ["is empty"]),
        ("train.csv", "sentence,label\n", ["no rows"]),
        ("train.tsv", "sentence\tlabel\tlabel\na\t1\t1\n", ["'label'", "more than once"]),
        ("train.jsonl", '{"sentence": "a", "label": 1}\n[1]\n', ["line 2"]),
        ("train.jsonl", '{"sentence": "a", "label": 1}\n' + "[" * 100_000, ["line 2"]),
        ("train.jsonl", '{"sentence": "a", "label": 0, "label": 1}\n', ["line 1", "'label'"]),
        ("train.jsonl", '{"sentence": "a", "label": 1}\n\n{"sentence": "b"}\n', ["line 3", "no label"]),
        ("train.jsonl", '{"sentence": "a", "label": 1}\n{"label": 1}\n', ["line 2", "no text"]),
        (
            "train.jsonl",
            '{"sentence": "a", "label": 1}\n{"sentence": "b", "label": ' + "9" * 5000 + "}",
            ["line 2"],
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_line(read, name, content, words):
    with pytest.raises(DataError, match=name) as error:
        read(name, content)
    assert all(word in str(error.value) for word in words), error.value


def test_half_a_character_is_refused_by_its_row(read):
    with pytest.raises(DataError, match=r"train\.jsonl.*line 2.*half a character"):
        read("train.jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "cut \\ud83d", "label": 1}\n')


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path, sst2):
    table = pyarrow.table([["a"], [1], [0]], names=["sentence", "label", "label"])
    (tmp_path / "sst2").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "sst2" / "train.parquet")
    with pytest.raises(DataError, match="'label'"):
        read_local(tmp_path, sst2.task, "train")


def test_a_folder_called_key_equals_value_adds_no_column(tmp_path, sst2, caplog):
    (tmp_path / "date=1" / "sst2").mkdir(parents=True)
    write_parquet(tmp_path / "date=1" / "sst2" / "train.parquet", [("a", 1)])
    assert len(read_local(tmp_path / "date=1", sst2.task, "train")[0]) == 1
    assert "date" not in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        {"rows": "1"},
        {"rows": True},
        {"status": 3},
        {"status": "two\nlines"},
        {"sha256": "abc"},
        {"label_names": [["negative"]]},
        {"label_names": ["positive", "positive"]},
        {"label_counts": [1, 2]},
        {"label_counts": {"1": "1"}},
        {"label_counts": {"x": 1}},
        [],
        None,
    ],
)
def test_what_a_manifest_says_is_typed(tmp_path, read, entry):
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"sst2/train.csv": entry}}))
    with pytest.raises(DataError) as error:
        read("train.csv", "sentence,label\na,1\n")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"files": []}', "{}", "", '{"files": {\n"a": }', "\ud83d"])
def test_a_manifest_that_is_none_is_named(tmp_path, read, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"manifest\.json"):
        read("train.csv", "sentence,label\na,1\n")


def test_entries_of_other_files_are_not_read(tmp_path, read):
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"cr/train.csv": {"rows": "many"}}}))
    assert len(read("train.csv", "sentence,label\na,1\n")) == 1


@pytest.mark.parametrize("score", [True, "1_0", "nan", "1e999", 10**400, 1e300, [1]])
def test_what_is_no_score_is_refused_by_its_row(tmp_path, score):
    spec = replace(compose_run("model=tiny_bert", "task=stsb", "method=low_k").task, label_range=())
    rows = [{"sentence1": "a", "sentence2": "b", "label": value} for value in (1.5, score)]
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="line 2"):
        read_local(tmp_path, spec, "train")


def test_a_split_too_small_to_hold_out_a_part_is_refused(tmp_path):
    run = compose_run("model=tiny_bert", "task=sst2", "method=low_k", "protocol=search")
    with pytest.raises(DataError, match="protocol=search"):
        loaded(tmp_path, run, [("a", 1)], ".csv")
