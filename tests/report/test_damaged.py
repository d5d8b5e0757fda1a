"""One bad file among the records: each command names it and why, and makes the rest from the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_records import made, write
from programs import program

from layertune.config.compose import plain_run
from layertune.records import versions_of
from layertune.report.figures import style

MODEL = "model=tiny_bert"


def _nan(path: Path, text: str) -> None:
    path.write_text(text.replace('"seconds": 50.0', '"seconds": NaN'))


def _in_percent(path: Path, text: str) -> None:
    path.write_text(text.replace('"accuracy": 0.75', '"accuracy": 95.0'))


def _other_schema(path: Path, text: str) -> None:
    path.write_text(text.replace('"schema": 1', '"schema": 99', 1))


def _folder(path: Path, text: str) -> None:
    path.mkdir()


def _second(path: Path, text: str) -> None:
    run_id = json.loads(text)["run_id"]
    path.write_text(text)
    path.with_name(f"{run_id}.json").write_text(text)


DAMAGE: dict[str, Callable[[Path, str], object]] = {
    "nan": _nan,
    "percent": _in_percent,
    "schema": _other_schema,
    "folder": _folder,
    "second": _second,
    "huge": lambda path, text: path.write_text(text.replace('"seconds": 50.0', '"seconds": 1e308')),
    "type": lambda path, text: path.write_text(text.replace('"counts": {', '"counts": "many", "x": {')),
    "deep": lambda path, text: path.write_text("[" * 100_000),
    "bytes": lambda path, text: path.write_bytes(text.encode("utf-16")),
    "cut": lambda path, text: path.write_text(text[: len(text) // 2]),
    "link": lambda path, text: path.symlink_to("nowhere"),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results with two good records and one file of each kind of damage."""
    asked = [plain_run(f"model=tiny_bert task=cola method={m}".split()) for m in ("low_k", "full", "high_k")]
    low, full, high = (made(run, 0.75, trainable=None) for run in asked)
    write(tmp_path / "runs", low, full)
    for name, damage in DAMAGE.items():
        damage(tmp_path / "runs" / f"damaged-{name}.json", high.to_json())
    return tmp_path


Ask = Callable[..., tuple[str, str]]


@pytest.fixture
def ask(
    repo: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog
) -> Ask:
    """Run one of the report's commands to its good end; return what it said: on stdout, and of damage."""

    def run(*words: str) -> tuple[str, str]:
        caplog.clear()
        assert program(repo / "scripts" / "report.py", words, monkeypatch) == 0
        return capfd.readouterr().out, caplog.text

    return run


def _names_all(text: str) -> bool:
    return all(f"damaged-{name}.json" in text for name in DAMAGE)


@pytest.mark.parametrize("more", [[], ["readout=last,best"]], ids=["tables", "comparison"])
def test_tables_name_what_is_damaged_and_show_the_rest(results: Path, ask: Ask, more: list[str]) -> None:
    _, said = ask("tables", MODEL, *more, f"results_dir={results}")
    folder = results / "tables" / ("tiny_bert_last_and_best" if more else "tiny_bert")
    page = (folder / "index.html" if more else folder.parent / "index.html").read_text()
    assert _names_all(said) and _names_all(page)
    assert "accuracy=95.0" in page and "schema 99" in page
    assert "tiny_bert-cola-low_k-s0" in (folder / "table1.csv").read_text()


def test_many_stale_records_are_counted_by_task_in_one_line(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [
        plain_run(["model=tiny_bert", f"task={task}", "method=full", f"seed={seed}"])
        for task, seed in (*(("cola", seed) for seed in range(5)), ("sst2", 0))
    ]
    old = [made(run, versions=dataclasses.replace(versions_of(run), method=0)) for run in asked]
    write(tmp_path / "runs", *old)
    words = ["tables", MODEL, f"results_dir={tmp_path}"]
    assert program(repo / "scripts" / "report.py", words, monkeypatch) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "stale" in line]
    assert "6 records of tiny_bert (5 of cola, 1 of sst2)" in line


def test_claims_name_what_is_damaged(results: Path, ask: Ask) -> None:
    out, said = ask("claims", MODEL, f"results_dir={results}")
    assert _names_all(said) and _names_all(out)
    assert out == (results / "claims" / "tiny_bert.md").read_text()


def test_a_plan_names_what_is_damaged_and_counts_the_rest(results: Path, ask: Ask) -> None:
    words = ["table=1", MODEL, "task=cola", "seed=0", "method=low_k,full,high_k"]
    out, said = ask("plan", *words, f"results_dir={results}", f"outputs_dir={results / 'none'}")
    assert _names_all(said)
    assert " run.py " not in out  # of the two files of one run the good one counts


def test_figures_name_what_is_damaged(results: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "save", lambda figure, path: path)  # most of the time goes into the pictures
    out, said = ask("figures", MODEL, f"results_dir={results}")
    assert _names_all(said) and "pictures" in out


@pytest.mark.parametrize("way", [[], ["--means"]])
def test_a_comparison_names_what_is_damaged_and_prints_the_rest(
    results: Path, ask: Ask, way: list[str]
) -> None:
    out, said = ask("compare", *way, *map(str, sorted((results / "runs").glob("*.json"))))
    assert _names_all(said)
    assert [line.split()[0] for line in out.splitlines()[2:]].count("low_k") == 1


def test_a_comparison_of_nothing_but_damage_is_an_error(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(repo / "scripts" / "report.py", ["compare", str(tmp_path / "none.json")], monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: ")
