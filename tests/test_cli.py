"""The command `layertune` as a newcomer types it, in an empty folder, on a file of their own."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import re
import shlex

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

import layertune.saved
from layertune import baselines, cli
from layertune.config import ModelSpec
from layertune.config.compose import compose_tree
from layertune.config.groups import group_file
from layertune.models import load_model, load_tokenizer
from layertune.models.architectures import ARCHITECTURES

WORDS = {"great best good fine": 5, "bad dull boring slow": 1}
REVIEWS = [
    (f"the {word} film, number {i}", stars)
    for i in range(8)
    for words, stars in WORDS.items()
    for word in words.split()
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random BERT of four layers in a folder, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("base")
    spec = ModelSpec(
        name="tiny", source="random", random_config=group_file("model", "tiny_bert")["random_config"]
    )
    load_model(spec).save_pretrained(folder)
    load_tokenizer(spec)[0].save_pretrained(folder)
    return folder


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys):
    """Type a command in an empty folder with `reviews.csv` in it; returns exit code, output, error output."""
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("the review", "stars"), *REVIEWS])

    def typed(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(word) for word in words])
        shown = capsys.readouterr()
        return stopped.value.code or 0, shown.out, shown.err

    yield typed
    for noisy in ("httpx", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.NOTSET)
    logging.getLogger("filelock").setLevel(logging.NOTSET)


FIT = ("--text", "the review", "--label", "stars", "--out", "my-model", "train.learning_rate=3e-3")


def test_fit_compares_with_what_needs_no_language_model_and_predict_reads_what_it_kept(
    type_in, base, tmp_path
):
    code, out, _ = type_in("fit", base, "reviews.csv", *FIT, "--k", "2")
    assert code == 0
    assert "majority class" in out and "TF-IDF + logistic regression" in out and "low_k" in out
    assert "50.0" in out and "58 rows to train on, 6 to evaluate" in out and "time: " in out
    assert "layertune predict my-model" in out
    code, out, _ = type_in("predict", "my-model", "reviews.csv", "--out", "predictions.csv")
    assert code == 0 and "64 rows" in out
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(newline="")))
    saved = layertune.load(tmp_path / "my-model", device="cpu")
    texts = [text for text, _ in REVIEWS]
    assert [row["the review"] for row in rows] == texts
    assert [row["prediction"] for row in rows] == saved.predict(texts)
    assert float(rows[0]["probability 5"]) == pytest.approx(saved.predict_proba(texts)[0, 1], abs=2e-6)
    again, out, _ = type_in("fit", base, "reviews.csv", *FIT, "--k", "2")
    assert again == 0 and "majority class" in out  # the folder holds that very model


def test_a_file_is_predicted_in_parts_whatever_its_format_and_empty_rows_stay_in_place(
    type_in, base, tmp_path, monkeypatch
):
    assert type_in("fit", base, "reviews.csv", *FIT, "--k", "1")[0] == 0
    monkeypatch.setattr(cli, "CHUNK", 3)
    texts = [text for text, _ in REVIEWS[:7]] + ["", "good"]
    with (tmp_path / "new.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "t"), *enumerate(texts)])
    (tmp_path / "new.jsonl").write_text("\n".join(json.dumps({"t": text or None}) for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"t": texts}), tmp_path / "new.parquet")
    found = [
        type_in("predict", "my-model", f"new.{kind}", "--text", "t") for kind in ("csv", "jsonl", "parquet")
    ]
    tables = [list(csv.reader(io.StringIO(out))) for code, out, _ in found if code == 0]
    assert len(tables) == 3 and all(
        [row[1:] for row in table] == [row[1:] for row in tables[0]] for table in tables
    )
    answers = [row[1] for row in tables[0][1:]]
    assert answers[7] == "" and set(answers) - {""} <= {"1", "5"} and len(answers) == 9
    saved = layertune.load("my-model", device="cpu")
    assert answers[8] == saved.predict(["good"])[0]


def test_what_needs_no_language_model_learns_from_the_rows_that_the_model_saw(type_in, base, monkeypatch):
    seen, fitted = [], baselines.baselines

    def watched(train, held_out, *rest):
        seen.append((len(train), len(held_out)))
        return fitted(train, held_out, *rest)

    monkeypatch.setattr(baselines, "baselines", watched)
    cut = ("protocol.train_examples=20", "protocol.eval_examples=4")
    code, out, _ = type_in("fit", base, "reviews.csv", *FIT, *cut)
    assert code == 0 and "20 rows to train on, 4 to evaluate" in out and seen == [(20, 4)]


def test_numbers_are_learnt_and_compared_with_ridge_regression(type_in, base):
    code, out, _ = type_in("fit", base, "reviews.csv", *FIT, "--regression", "--method", "head_only")
    assert code == 0 and "ridge" in out and "pearson" in out and "majority" not in out
    code, out, _ = type_in("predict", "my-model", "reviews.csv")
    assert code == 0 and out.splitlines()[0] == "the review,prediction"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("fit", "{base}", "reviews.csv", "--text", "review", "--out", "m"), 2, "the review"),
        (("fit", "{base}", "no.csv", *FIT), 2, "is not there"),
        (("fit", "./nowhere", "reviews.csv", *FIT), 2, "not a folder"),
        (("fit", "{base}", "reviews.csv", *FIT, "--method", "full", "--k", "2"), 2, "no meaning"),
        (("fit", "{base}", "reviews.csv", *FIT, "--k", "4"), 2, "between 1 and 3"),
        (("fit", "{base}", "reviews.csv", *FIT, "train.epoch=3"), 2, "epochs"),
        (("fit", "{base}", "reviews.csv", *FIT, "--bogus"), 2, "--bogus"),
        (("predict", "{base}", "reviews.csv"), 2, "no model"),
        (("predict", "{base}", "reviews.csv", "--out", "/dev/null"), 2, "csv file"),
        (("predict", "{base}", "reviews.xlsx"), 2, "csv"),
        (("score", "{base}", "nothing.txt", "--k", "2"), 2, "missing"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(type_in, base, tmp_path, words, code, said):
    before = sorted(tmp_path.iterdir())
    found, _, err = type_in(*(word.format(base=base) for word in words))
    assert found == code and said in err and "Traceback" not in err
    assert not (tmp_path / "my-model").exists() and sorted(tmp_path.iterdir()) in (
        before,
        [*before, tmp_path / "outputs"],
    )


WORDS_OF_RUN_PY = re.compile(r"save=|method[.=]|\bown\.\w|task=|model=")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "{base}", "no.csv", *FIT), "no.csv"),
        (("fit", "{base}", "{base}", *FIT), "csv"),
        (("fit", "{base}", "reviews.csv", "--label", "starz", *FIT[:2], *FIT[4:]), "--label"),
        (("fit", "{base}", "reviews.csv", *FIT, "--k", "4"), "--k 4"),
        (("fit", "{base}", "reviews.csv", *FIT, "--method", "lowk", "--k", "2"), "Did you mean 'low_k'"),
        (
            ("fit", "{base}", "reviews.csv", "--text", "the review", "--out", "reviews.csv"),
            "--out reviews.csv",
        ),
        (("fit", "{base}", "reviews.csv", "--text", "stars", *FIT[2:]), "--text stars"),
        (("fit", "{base}", "reviews.csv", "--text", "reviews", *FIT[2:]), "--text <column>"),
        (("fit", "minilm-l6", "reviews.csv", *FIT), "Did you mean 'minilm_l6'"),
        (("fit", "{base}", "reviews.csv", *FIT, "--eval", "no.csv"), "--eval no.csv"),
        (
            ("fit", "{base}", "names.csv", "--text", "stars", "--label", "the review", *FIT[4:]),
            "--regression",
        ),
        (("fit", "{base}", "empty.csv", *FIT), "empty.csv is empty"),
        (("fit", "{base}", "folder.csv", *FIT), "folder.csv is a folder"),
        (("predict", "{base}", "folder.csv"), "folder.csv is a folder"),
        (("score", "{base}", "reviews.csv", "--k", "4"), "--k 4"),
        (("score", "{base}", "reviews.csv", "--k", "2", "--strategy", "lowk"), "--strategy lowk"),
        (("score", "{base}", "blank.csv", "--k", "2"), "blank.csv"),
        (("score", "nowhere/at-all", "reviews.csv", "--k", "2"), "nowhere/at-all"),
        (("predict", "nowhere", "reviews.csv"), "layertune fit"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_that_were_typed(type_in, base, tmp_path, words, said):
    rows = [(index, f"text {index}") for index in range(40)]
    with (tmp_path / "names.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("the review", "stars"), *rows])
    (tmp_path / "blank.csv").write_text("\n\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    code, _, err = type_in(*(word.format(base=base) for word in words))
    sentence = err.partition("error: ")[2].replace(str(base), "")
    assert code == 2 and said in sentence
    if said != "layertune fit":
        assert not WORDS_OF_RUN_PY.search(sentence)


def test_what_comes_next_can_be_typed_as_it_stands(type_in, base, tmp_path):
    (tmp_path / "my-model-full").mkdir()
    code, out, _ = type_in("fit", base, "reviews.csv", *FIT, "--k", "1", "--seed", "3")
    again = shlex.split(out.strip().splitlines()[-1])
    assert code == 0 and again[:4] == ["layertune", "fit", str(base), "reviews.csv"]
    assert again[again.index("--out") + 1] == "my-model-full-2" and "train.learning_rate=3e-3" in again
    code, out, _ = type_in(*again[1:])
    assert code == 0 and "--method low_k" in out and "--seed 3" in out


def test_a_pair_is_shown_as_a_pair(type_in, base, tmp_path):
    rows = [(text, "a question", stars) for text, stars in REVIEWS]
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("the review", "other", "stars"), *rows])
    code, out, _ = type_in("fit", base, "pairs.csv", *FIT, "--text2", "other", "--method", "head_only")
    assert code == 0 and "text_pair" in out
    code, out, err = type_in("predict", "my-model", "pairs.csv", "--text2", "others")
    assert code == 2 and not out and "--text2 <column>" in err


def test_a_file_of_a_head_alone_is_predicted_as_one(type_in, base, tmp_path):
    assert type_in("fit", base, "reviews.csv", *FIT, "--method", "head_only")[0] == 0
    (tmp_path / "new.csv").write_text("the review\n")
    code, out, _ = type_in("predict", "my-model", "new.csv")
    assert code == 0 and out.splitlines() == ["the review,prediction,probability 1,probability 5"]


def test_a_card_names_the_base_and_the_file_and_the_labels_say_of_which_rows_they_are(
    type_in, base, tmp_path, caplog
):
    (tmp_path / "dev.csv").write_text((tmp_path / "reviews.csv").read_text())
    with caplog.at_level(logging.INFO):
        assert type_in("fit", base, "reviews.csv", *FIT, "--k", "1", "--eval", "dev.csv")[0] == 0
    card = (tmp_path / "my-model" / "README.md").read_text()
    assert f"# {base.name}, reviews.csv" in card and "dev.csv" in card and "Own" not in card
    assert "labels, of both files" in caplog.text


def test_a_model_is_named_by_the_hub_s_id_of_a_known_one_or_by_its_own_folder(base, tmp_path):
    assert cli.model_words("bert-base-uncased") == cli.model_words("google-bert/bert-base-uncased")
    assert cli.model_words("google-bert/bert-base-uncased") == ["model=bert"]
    words = cli.model_words(str(base))
    assert words[0] == "model=own" and {"model.num_layers=4", "model.family=encoder"} <= set(words)
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 2, "architectures": ["GPT2LMHeadModel"]}))
    assert {"model.num_layers=2", "model.family=decoder"} <= set(cli.model_words(str(tmp_path)))


@pytest.mark.parametrize(
    "value", ["it's", "a\\b", "a\\", "a\\'b", "die Frage, bitte", "{x: 1}", "ünï=1", "a 'b' \"c\""]
)
def test_a_value_reaches_the_configuration_as_it_was_typed(value):
    assert (
        compose_tree(["model=tiny_bert", "task=own", "method=full", f"own.text={cli.quoted(value)}"])["own"][
            "text"
        ]
        == value
    )


def test_a_folder_is_a_decoder_where_the_table_of_architectures_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "added", ARCHITECTURES["llama"])
    for kind, family in (("gpt2", "decoder"), ("added", "decoder"), ("bert", "encoder"), ("odd", "encoder")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "num_hidden_layers": 2}))
        assert cli.model_words(str(tmp_path))[-1] == f"model.family={family}"


def test_a_model_and_rows_of_the_hub_are_fetched_once_and_serve_every_command_without_it(
    type_in, base, tmp_path, loopback_hub, monkeypatch
):
    weights = {path.name: path.read_bytes() for path in base.iterdir()}
    rows = (tmp_path / "reviews.csv").read_bytes()
    loopback_hub.repositories["models", "someone/bert"] = ("a" * 40, weights)
    loopback_hub.repositories["datasets", "someone/reviews"] = (
        "b" * 40,
        {"train.csv": rows, "test.csv": rows},
    )
    named = ("someone/bert", "someone/reviews", *FIT)
    code, out, err = type_in("fit", *named)
    assert code == 0 and "64 rows to train on, 64 to evaluate" in out
    card = (tmp_path / "my-model" / "README.md").read_text()
    assert f"`someone/bert` at `{'a' * 40}`" in card and "HTTP" not in err
    newer = rows[: rows.index(b"\n", 900) + 1]
    loopback_hub.repositories["datasets", "someone/reviews"] = (
        "c" * 40,
        {"train.csv": newer, "test.csv": rows},
    )
    code, out, _ = type_in("fit", *(word.replace("my-model", "newer") for word in named))
    assert code == 0 and f"{newer.count(b'film')} rows to train on" in out  # not the record of the older rows
    (tmp_path / "texts.txt").write_text("a fine film\na dull film\n")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    asked = len(loopback_hub.log)
    again = [word.replace("my-model", "another") for word in named]
    assert type_in("fit", *again, "--seed", "1")[0] == 0
    assert type_in("predict", "my-model", "reviews.csv")[0] == 0
    assert type_in("score", "someone/bert", "texts.txt", "--k", "2")[0] == 0
    assert len(loopback_hub.log) == asked
    code, _, err = type_in("fit", "someone/bert", "someone/others", *FIT[:4], "--out", "m")
    assert code == 2 and "someone/others" in err and "data_dir" not in err


def test_a_data_set_of_the_hub_without_training_rows_lists_what_it_has(type_in, tmp_path, loopback_hub):
    rows = {"test.csv": (tmp_path / "reviews.csv").read_bytes()}
    loopback_hub.repositories["datasets", "someone/held-out"] = ("d" * 40, rows)
    code, _, err = type_in("fit", "tiny_bert", "someone/held-out", *FIT)
    assert code == 2 and "its splits are test" in err


def test_a_full_disk_is_a_failure_and_no_wrong_request(type_in, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layertune.saved, "load", full)
    code, _, err = type_in("predict", "my-model", "reviews.csv")
    assert code == 1 and "space" in err
