"""Grouping rows by meaning representation, and which rows a protocol reads of a generation task."""

from __future__ import annotations

import io
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from layertune.config.compose import compose_run
from layertune.errors import ConfigError, DataError
from layertune.models import load_tokenizer
from layertune.tasks import load_task
from layertune.tasks.hub import read_hub
from layertune.tasks.local import read_local
from layertune.tasks.meanings import first_meanings, group_meanings, split_off_meanings
from layertune.tasks.rows import unlabelled

ROWS = unlabelled((["b", "a", "b", "c", "a", "b"], ["b1", "a1", "b2", "c1", "a2", "b1"]))
SPLITS = ("train", "validation", "test")


def test_rows_are_grouped_by_exact_text_in_order_of_first_appearance():
    grouped = group_meanings(ROWS)
    assert grouped.texts == ("b", "a", "c")
    assert grouped.references == (("b1", "b2", "b1"), ("a1", "a2"), ("c1",))  # repeats count
    assert grouped.rows.tolist() == [0, 1, 3]


def test_the_first_meanings_keep_all_their_references_and_the_order():
    assert list(first_meanings(ROWS, 2).texts[1]) == ["b1", "a1", "b2", "a2", "b1"]
    assert first_meanings(ROWS, 3) is ROWS and first_meanings(ROWS, None) is ROWS


def test_no_meaning_is_on_both_sides_of_a_split():
    many = unlabelled(([f"m{i // 3}" for i in range(90)], [f"r{i}" for i in range(90)]))
    rest, held = split_off_meanings(many, 10, seed=0)
    assert len(held) == 9 and len(rest) == 81  # whole meanings of three rows, at most ten rows
    assert not set(rest.texts[0]) & set(held.texts[0])
    assert split_off_meanings(many, 10, seed=0)[1].texts == held.texts
    assert split_off_meanings(many, 10, seed=1)[1].texts != held.texts


def write(folder, meanings=6, **manifest):
    """Write `meanings` representations of two references each for every split."""
    (folder / "e2e").mkdir(parents=True)
    for split in SPLITS:
        lines = [
            json.dumps(
                {"meaning_representation": f"name[{split} {i}]", "human_reference": f"{word} {split} {i}"}
            )
            for i in range(meanings)
            for word in ("a", "the")
        ]
        (folder / "e2e" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    if manifest:
        files = {f"e2e/{split}.jsonl": {"status": "official", **manifest} for split in SPLITS}
        (folder / "manifest.json").write_text(json.dumps({"files": files}))


def write_official_csv(folder, text, split="test"):
    """Write one split as the challenge hands it out: columns `mr` and `ref`."""
    (folder / "e2e").mkdir(parents=True)
    (folder / "e2e" / f"{split}.csv").write_text(text, encoding="utf-8")
    return compose_run("model=tiny_gpt2", "task=e2e", "method=full").task


def test_the_columns_of_the_official_csv_files_are_known(tmp_path):
    task = write_official_csv(tmp_path, 'mr,ref\n"name[A], area[riverside]","A, by the river."\nname[B],B.\n')
    rows, status = read_local(tmp_path, task, "test")
    assert [list(column) for column in rows.texts] == [
        ["name[A], area[riverside]", "name[B]"],
        ["A, by the river.", "B."],
    ]
    assert status == "local"


def test_pound_and_e_acute_of_the_official_csv_files_are_repaired(tmp_path):
    table = "mr,ref\npriceRange[Â£20-25],Łess than Â£20 at the cafÃ© or cafã©\n£é,£5 in an old café\n"
    rows, _ = read_local(tmp_path, write_official_csv(tmp_path, table), "test")
    assert [list(column) for column in rows.texts] == [
        ["priceRange[£20-25]", "£é"],
        ["£ess than £20 at the café or café", "£5 in an old café"],
    ]


def test_other_files_than_csv_are_read_as_they_are(tmp_path):
    task = write_official_csv(tmp_path, "mr,ref\na,b\n", split="train")
    path = tmp_path / "e2e" / "test.jsonl"
    path.write_text(json.dumps({"meaning_representation": "Â£", "human_reference": "Ł"}) + "\n")
    rows, _ = read_local(tmp_path, task, "test")
    assert [list(column) for column in rows.texts] == [["Â£"], ["Ł"]]
    path.write_text(json.dumps({"mr": "a", "ref": "b"}) + "\n")
    with pytest.raises(DataError, match=r"meaning_representation.*human_reference"):
        read_local(tmp_path, task, "test")


def loaded(tmp_path, *overrides):
    run = compose_run(
        "model=tiny_gpt2",
        "task=e2e",
        "method=full",
        "tracking=disabled",
        f"outputs_dir={tmp_path / 'outputs'}",
        f"data_dir={tmp_path / 'data'}",
        *overrides,
    )
    return load_task(run, *load_tokenizer(run.model))


def test_the_dev_split_comes_first_and_the_test_split_goes_by_the_tasks_name(tmp_path):
    write(tmp_path / "data", unique_meaning_representations=6)
    data = loaded(tmp_path)
    assert list(data.evals) == ["e2e_validation", "e2e"] and data.each_epoch == "e2e_validation"
    assert data.evals["e2e"].split == "test" and data.evals["e2e"].meanings.texts[0] == "name[test 0]"
    assert data.provenance.counts == {"train": 12, "e2e_validation": 12, "e2e": 12}
    assert (data.provenance.status, data.provenance.labels) == ("official", ())


def test_a_study_reads_the_first_meanings_and_says_that_it_is_a_subset(tmp_path):
    write(tmp_path / "data", rows=12)
    sizes = ("study.train_examples=5", "study.eval_meanings=3", "study.dev_meanings=1")
    data = loaded(tmp_path, "protocol=study", *sizes)
    assert data.provenance.counts == {"train": 5, "e2e_validation": 2, "e2e": 6}
    assert data.evals["e2e"].meanings.texts == tuple(f"name[test {i}]" for i in range(3))
    assert data.evals["e2e"].meanings.references[2] == ("a test 2", "the test 2")
    assert data.provenance.status == "subset"


def test_a_search_holds_out_whole_meanings_and_reads_no_other_split(tmp_path):
    write(tmp_path / "data", meanings=20)
    for split in ("validation", "test"):
        (tmp_path / "data" / "e2e" / f"{split}.jsonl").unlink()
    data = loaded(tmp_path, "protocol=search")
    assert list(data.evals) == ["e2e"] and data.provenance.counts == {"train": 36, "e2e": 4}
    held = set(data.evals["e2e"].meanings.texts)
    assert not held & set(data.train.meanings.texts)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"rows": 13}, "12 rows and 13 are expected"),
        ({"unique_meaning_representations": 7}, "6 distinct meaning representations and 7 are expected"),
    ],
)
def test_other_counts_than_the_manifest_says_are_refused(tmp_path, manifest, words):
    write(tmp_path / "data", **manifest)
    with pytest.raises(DataError, match=words):
        loaded(tmp_path)


def test_a_file_of_the_wrong_columns_is_refused(tmp_path):
    write(tmp_path / "data")
    path = tmp_path / "data" / "e2e" / "test.jsonl"
    path.write_text(path.read_text().replace("human_reference", "ref"))
    with pytest.raises(DataError, match="human_reference"):
        loaded(tmp_path)


def test_an_empty_reference_is_refused(tmp_path):
    write(tmp_path / "data")
    with (tmp_path / "data" / "e2e" / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"meaning_representation": "name[x]", "human_reference": " "}))
    with pytest.raises(DataError, match=r"row 13 .*empty"):
        loaded(tmp_path)


def test_a_missing_dev_file_is_a_wrong_request(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "e2e" / "validation.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"validation .*e2e"):
        loaded(tmp_path)


def test_rows_of_the_hub_are_counted_by_row_and_by_meaning(loopback_hub, monkeypatch):
    task = compose_run("model=gpt2", "task=e2e", "method=full").task
    rows = {"meaning_representation": ["name[a]"] * 2, "human_reference": ["it", "that"]}
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(rows), stream)
    files = {f"default/{split}/0000.parquet": stream.getvalue() for split in SPLITS}
    loopback_hub.repositories["datasets", task.hub.id] = (task.hub.revision, files)
    asked = []
    for offline in (False, True):  # the second time from the cache
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(DataError, match=r"\b1 .*630"):
            read_hub(task, "test")
        asked.append(len(loopback_hub.log))
    assert 0 < asked[0] == asked[1]


def test_the_real_rows_are_the_official_ones(shared_data, tmp_path):
    run = compose_run("model=tiny_gpt2", "task=e2e", "method=full", f"data_dir={shared_data}")
    for split in SPLITS:
        rows, status = read_local(shared_data, run.task, split)
        assert (len(rows), status) == (run.task.counts[split], "official")
        assert len(group_meanings(rows)) == run.task.meanings[split]
