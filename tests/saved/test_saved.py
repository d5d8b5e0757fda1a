"""A model that is kept and loaded again predicts, bit for bit, what the run's evaluation saw."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_generation_run import write
from tiny_models import ENCODERS, EXTRA, SMALL
from tiny_runs import compose_tiny, methods_by_kind, options_of, prepare, whole_but

import layertune
from layertune.config import checks
from layertune.config.compose import compose_run
from layertune.errors import ConfigError, RunFailed
from layertune.evaluation import evaluate
from layertune.models import load_model, load_tokenizer
from layertune.models.backbone import scoring_mode
from layertune.pipeline import execute
from layertune.records import Store
from layertune.saved import keep
from layertune.tasks import sorted_batches
from layertune.training import train as loop_train

SHAPES = ["bert", "roberta", "deberta", "gpt2", "llama"]
WORDS = {"good": ("great best good fine", 1), "bad": ("bad dull boring slow", 0)}
DEV = [
    f"the {word} movie was very {word} {i}"
    for i in range(6)
    for words, _ in WORDS.values()
    for word in words.split()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Own data, and bases of the shapes that have one in a folder."""
    root = tmp_path_factory.mktemp("saved")
    rows = [
        f'"the {word} film {i}",{label}'
        for i in range(6)
        for words, label in WORDS.values()
        for word in words.split()
    ]
    (root / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    dev = [f'"{text}",{index % 2}' for index, text in enumerate(DEV)]
    (root / "dev.csv").write_text("text,label\n" + "\n".join(dev) + "\n")
    return root


def run_of(folder, shape, *options, path=False, stored=torch.float32):
    """Compose a run of a few steps on a random model of one architecture, whose model is kept in `out`."""
    out = folder / f"out-{abs(hash((shape, options, path, stored)))}"
    run = compose_tiny(
        folder,
        "task=own",
        f"own.train='{folder / 'train.csv'}'",
        f"own.eval='{folder / 'dev.csv'}'",
        "protocol=quick",
        "train.batch_size=16",
        "train.epochs=2",
        "train.learning_rate=3e-3",
        f"save='{out}'",
        *options_of(
            next((o.removeprefix("method=") for o in options if o.startswith("method=")), "low_k"),
            "tiny_bert" if shape in ENCODERS else "tiny_gpt2",
        ),
        *[option for option in options if not option.startswith("method=")],
    )
    sizes = {**SMALL, **EXTRA.get(shape, {}), "vocab_size": 768, "max_position_embeddings": 80}
    model = dataclasses.replace(run.model, random_config={"model_type": shape, **sizes}, max_positions=None)
    if path:
        base = folder / f"base-{shape}-{stored}".replace("torch.", "")
        if not base.is_dir():
            load_model(model).to(stored).save_pretrained(base)
            load_tokenizer(model)[0].save_pretrained(base)
        model = dataclasses.replace(model, source="own", path=str(base), random_config=None)
    task = dataclasses.replace(run.task, max_length=64)
    return dataclasses.replace(
        run, model=model, task=task, force=True
    )  # the shape is no part of the identity


@pytest.fixture
def seen(monkeypatch):
    """The logits of each evaluation, [n, C], in the order of the epochs."""
    found = []
    predict = evaluate.predict

    def watched(model, split, runtime, batch_size):
        logits = None
        with scoring_mode(model), torch.no_grad():
            for indices in sorted_batches(split.store.lengths, batch_size):
                answers = model(split.store.batch(indices)).logits.numpy()
                logits = np.zeros((len(split), answers.shape[1]), np.float32) if logits is None else logits
                logits[indices] = answers
        found.append(logits)
        return predict(model, split, runtime, batch_size)

    monkeypatch.setattr(evaluate, "predict", watched)
    return found


def train(run):
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done"
    return record


def about(run):
    return json.loads((run_folder(run) / "layertune.json").read_text())


def run_folder(run):
    return Path(run.save)


def assert_same(run, seen, epoch=-1):
    saved = layertune.load(run.save, device="cpu")
    assert np.array_equal(saved.logits(DEV), seen[epoch])
    assert saved.predict(DEV) == [saved.labels[i] for i in seen[epoch].argmax(1)]
    shutil.rmtree(run.save)


@pytest.mark.parametrize(
    "method", whole_but((own, name) for name, own in methods_by_kind() if name != "elsa")
)
def test_every_method_with_the_standard_head(folder, seen, method):
    run = run_of(folder, "bert", f"method={method}")
    train(run)
    added = method in ("lora", "ia3", "adapters", "prefix", "recap")  # a random base: nowhere to be found
    assert about(run)["form"] == ("layertune" if added else "transformers")
    assert_same(run, seen)


def in_pairs():
    """Yield each method with each shape, and either head with each of both: the heads take turns.

    The standard head of `low_k` on every shape is that of the test below. Of two methods all shapes are the
    cover, of the others one or two.
    """
    for row, method in enumerate(("low_k", "lora", "recap", "adapters", "ia3", "prefix")):
        for column, shape in enumerate(SHAPES):
            head = "concat" if method == "low_k" or (row + column) % 2 else "standard"
            if (shape, method) != ("deberta", "prefix"):  # DeBERTa takes no prefix
                yield row < 2 or (column - row) % 3 == 1, (shape, method, head)


@pytest.mark.parametrize(("shape", "method", "head"), whole_but(in_pairs()))
def test_every_shape_with_either_head(folder, seen, shape, method, head):
    run = run_of(folder, shape, f"method={method}", f"head={head}", "train=fast")
    train(run)
    assert_same(run, seen)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_library_alone_reads_a_model_with_the_standard_head(folder, seen, shape):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    run = run_of(folder, shape, "method=low_k", "train=fast")
    train(run)
    model = AutoModelForSequenceClassification.from_pretrained(run.save).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.save)
    with torch.no_grad():
        logits = model(**tokenizer(DEV, padding=True, truncation=True, return_tensors="pt")).logits
    assert np.array_equal(logits.numpy(), seen[-1])
    assert model.config.id2label == {0: "0", 1: "1"}
    (answer,) = pipeline("text-classification", run.save, truncation=True)(DEV[0])
    assert answer["label"] == str(seen[-1][0].argmax())
    card = (run_folder(run) / "README.md").read_text()
    assert "accuracy" in card and "| own | 48 |" in card and str(folder) not in card
    assert_same(run, seen)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_peft_reads_its_adapter_and_a_merged_model_needs_no_peft(folder, seen, method):
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = run_of(folder, "bert", f"method={method}", "train=fast", path=True)
    train(run)
    assert about(run)["form"] == "peft" and not (run_folder(run) / "model.safetensors").exists()
    model = AutoPeftModelForSequenceClassification.from_pretrained(run.save, num_labels=2).eval()
    inputs = AutoTokenizer.from_pretrained(run.save)(DEV, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        assert np.array_equal(model(**inputs).logits.numpy(), seen[-1])
    assert_same(run, seen)
    run = run_of(folder, "bert", f"method={method}", "train=fast", "merge=true", path=True)
    train(run)
    merged = AutoModelForSequenceClassification.from_pretrained(run.save).eval()
    with torch.no_grad():
        np.testing.assert_allclose(merged(**inputs).logits.numpy(), seen[-1], atol=1e-5)  # folding rounds
    assert about(run)["form"] == "transformers"
    shutil.rmtree(run.save)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "head"), [("low_k", "standard"), ("low_k", "concat"), ("lora", "standard")]
)
def test_a_base_stored_in_half_precision_is_kept_and_read_in_full(folder, seen, method, head, stored):
    run = run_of(folder, "bert", f"method={method}", f"head={head}", "train=fast", path=True, stored=stored)
    train(run)
    (code,) = re.findall(r"```python\n(.*?)```", (run_folder(run) / "README.md").read_text(), re.S)
    names: dict = {}
    exec(code.replace("<this folder>", run.save), names)  # as the card says
    if method == "lora":
        inputs = names["tokenizer"](DEV, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            assert np.array_equal(names["model"].eval()(**inputs).logits.numpy(), seen[-1])
    assert_same(run, seen)


@pytest.mark.parametrize("method", ["low_k", "recap", "lift"])
def test_the_best_epoch_is_kept_where_it_is_asked_for(folder, seen, method):
    options = ("save_epoch=best", "train.epochs=3", "train.learning_rate=3e-2")
    run = run_of(folder, "bert", f"method={method}", *options)
    record = train(run)
    best = record.metrics.best["epoch"]
    assert best < 3 or method != "low_k"  # else this shows nothing
    assert about(run)["epoch"] == best
    assert_same(run, seen, best - 1)


def test_a_pair_and_a_number_are_learnt_kept_and_read(folder, seen):
    rows = [
        f'"is it {word}","it is {word}",{i}.5'
        for i, word in enumerate(["good", "bad", "fine", "dull", "best", "slow"] * 6)
    ]
    for name in ("pairs", "pairs-dev"):
        (folder / f"{name}.csv").write_text("question,answer,score\n" + "\n".join(rows) + "\n")
    columns = ("own.text=question", "own.text2=answer", "own.label=score", "own.regression=true")
    files = (f"own.train='{folder / 'pairs.csv'}'", f"own.eval='{folder / 'pairs-dev.csv'}'")
    run = run_of(folder, "bert", "method=low_k", *columns, *files)
    train(run)
    texts = [tuple(row.split(",")[:2]) for row in rows]
    texts = [(first.strip('"'), second.strip('"')) for first, second in texts]
    saved = layertune.load(run.save, device="cpu")
    assert np.array_equal(saved.logits(texts), seen[-1]) and saved.predict(texts)[0] == seen[-1][0, 0]
    shutil.rmtree(run.save)


def test_a_language_model_is_kept_as_the_library_has_it(tmp_path):
    from transformers import AutoModelForCausalLM

    data = write(tmp_path / "data")
    run = compose_tiny(
        tmp_path,
        "model=tiny_gpt2",
        "task=e2e",
        "method=low_k",
        "method.k=2",
        "protocol=quick",
        f"data_dir={data}",
        "protocol.evaluate=false",
        "train.epochs=1",
        f"save={tmp_path / 'out'}",
    )
    prepared = prepare(run)
    loop_train(*prepared.parts)
    train(dataclasses.replace(run, force=True))
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    batch = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        ours, theirs = (m.eval()(batch).logits for m in (prepared.model.causal_lm, kept))
    assert torch.equal(ours, theirs)


def test_a_recorded_run_trains_again_for_a_model_and_only_then(folder, caplog):
    caplog.set_level(logging.INFO)
    run = dataclasses.replace(run_of(folder, "bert", "method=top_k"), force=False)
    bare = dataclasses.replace(run, save=None)
    assert bare.run_id == run.run_id
    first = train(bare)
    second = train(run)
    assert "trains again" in caplog.text and about(run)["run_id"] == first.run_id
    assert second.metrics == first.metrics
    caplog.clear()
    assert train(run).created_at == second.created_at and "is done" in caplog.text
    shutil.rmtree(run.save)


def test_a_folder_that_is_not_empty_is_refused_and_stays(folder):
    run = run_of(folder, "bert", "method=low_k")
    other = folder / "full"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    given = [item for item in run.overrides if not item.startswith("save=")]
    with pytest.raises(ConfigError, match="not empty"):
        compose_run(*given, f"save='{other}'")
    assert (other / "thesis.txt").read_text() == "mine"


class Killed(BaseException):
    """What no handler expects."""


def killed_at(monkeypatch, run, number):
    """Let the process end when it moves a file (counted from 1) into the folder of the kept model."""
    place, moved = Path.replace, []

    def replace(self, target):
        if Path(target).parent == run_folder(run):
            moved.append(target)
            if len(moved) == number:
                raise Killed
        return place(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        train(run)
    monkeypatch.undo()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_process_that_is_killed_between_the_files_of_a_model_leaves_what_the_same_command_goes_on_from(
    folder, monkeypatch, caplog, number
):
    caplog.set_level(logging.INFO)
    run = run_of(folder, "bert", "method=low_k", "method.k=1")
    first = train(run)
    logits = layertune.load(run.save, device="cpu").logits(DEV)
    (run_folder(run) / "notes.txt").write_text("mine")
    killed_at(monkeypatch, run, number)
    with pytest.raises(ConfigError, match="again"):  # half of it is in its place
        layertune.load(run.save)
    again = dataclasses.replace(run, force=False)
    checks.check_run(again)
    with pytest.raises(ConfigError, match="not empty"):
        checks.check_run(dataclasses.replace(again, seed=1))
    assert train(again).run_id == first.run_id and "is done" in caplog.text
    assert np.array_equal(layertune.load(run.save, device="cpu").logits(DEV), logits)
    assert (run_folder(run) / "notes.txt").read_text() == "mine"
    killed_at(monkeypatch, run, number)
    train(run)  # force=true trains once more
    assert np.array_equal(layertune.load(run.save, device="cpu").logits(DEV), logits)
    assert not [path for path in run_folder(run).iterdir() if path.is_dir()]
    shutil.rmtree(run.save)


def test_the_model_that_was_there_stays_until_the_new_one_is_written_whole(folder, monkeypatch):
    run = run_of(folder, "bert", "method=low_k", "method.k=1")
    train(run)
    logits = layertune.load(run.save, device="cpu").logits(DEV)
    write_form = keep.write_form

    def half(*given):
        write_form(*given)
        raise Killed

    monkeypatch.setattr(keep, "write_form", half)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # of a killed process nothing cleans up
    with pytest.raises(Killed):
        train(run)
    monkeypatch.undo()
    assert np.array_equal(layertune.load(run.save, device="cpu").logits(DEV), logits)
    train(run)
    assert not [path for path in run_folder(run).iterdir() if path.is_dir()]
    shutil.rmtree(run.save)
    run_folder(run).mkdir()  # the same in a folder that was empty
    monkeypatch.setattr(keep, "write_form", half)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(Killed):
        train(run)
    monkeypatch.undo()
    checks.check_run(run)
    train(run)
    assert np.array_equal(layertune.load(run.save, device="cpu").logits(DEV), logits)
    shutil.rmtree(run.save)


def test_a_disk_that_is_full_before_training_is_said_at_once(folder, monkeypatch):
    run = run_of(folder, "bert", "method=low_k", "method.k=1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(ConfigError, match="free"):
        execute(run, Store(run.results_dir, run.outputs_dir))


def test_a_disk_that_is_full_at_the_end_loses_neither_record_nor_model(folder, seen, monkeypatch):
    run = run_of(folder, "bert", "method=low_k", "method.k=3")
    place = keep._put

    def full(target, write):
        if "models" not in target.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        place(target, write)

    monkeypatch.setattr(keep, "_put", full)
    store = Store(run.results_dir, run.outputs_dir)
    with pytest.raises(RunFailed, match="No space left") as failure:
        execute(run, store)
    assert store.find(run).status == "done"
    refuge = run.cache_dir.parent / "models" / run.run_id
    assert str(refuge) in str(failure.value)
    assert np.array_equal(layertune.load(refuge, device="cpu").logits(DEV), seen[-1])


def test_what_is_no_model_or_no_text_is_refused(folder, seen, tmp_path):
    with pytest.raises(ConfigError, match="no model"):
        layertune.load(tmp_path)
    run = run_of(folder, "bert", "method=low_k")
    train(run)
    saved = layertune.load(run.save)
    for wrong in ([], [("a", "pair")], [3]):
        with pytest.raises(ConfigError):
            saved.predict(wrong)
    (run_folder(run) / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        layertune.load(run.save)
    shutil.rmtree(run.save)
