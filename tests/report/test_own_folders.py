"""Tables, claims and figures with methods of one's own (`--config-dir`): folders of their own, commands that
say so, and nothing of it where it is not asked for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from made_records import made, write
from programs import Ended

from layertune.config.compose import plain_run
from layertune.errors import ConfigError
from layertune.report.figures import style
from layertune.report.render.words import fill_command
from layertune.report.render.write import renew_page, write_tables
from layertune.report.request import Request, read_request

METHOD = (
    "name: mine_low\ntitle: Of my own\nversion: 1\nkind: selected\nscorer: cosine\nselector: lowest\nk: 2\n"
)
MODEL = "name: mine_bert\ntitle: My model\nsource: my/model\nnum_layers: 4\n"
MINE = Request("tiny_bert", config_dir="mine")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with a record of one's own method, beside `mine`, in the working folder; one table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layertune.report.render.write.printed_tables", lambda: ["table1"])
    for group, text in (("method", METHOD), ("model", MODEL)):
        path = tmp_path / "mine" / group / f"{text.split()[1]}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with MINE.looking():
        runs = [
            plain_run(["model=tiny_bert", "task=cr", "method=mine_low", f"seed={n}"]) for n in (0, 42, 100)
        ]
        write(tmp_path / "results" / "runs", *map(made, runs))
    return tmp_path / "results"


def table1(results: Path, request: Request) -> str:
    return (results / "tables" / request.folder / "table1.md").read_text(encoding="utf-8")


def test_a_request_with_a_folder_of_one_s_own_has_a_folder_and_commands_of_its_own() -> None:
    assert MINE.folder == "tiny_bert-config-dir=mine" != Request("tiny_bert").folder
    assert MINE.make("claims") == "make claims MODEL=tiny_bert CONFIG_DIR=mine"
    spaced = Request(config_dir="my own")
    assert spaced.make() == "make tables MODEL=bert CONFIG_DIR='my own'"
    command = fill_command(spaced.table("table1"), spaced)
    assert command == "python run.py '--config-dir=my own' -m hydra/sweeper=table table=table1"


def test_a_request_is_read_as_it_was_written_and_those_written_first_are_still_read(tmp_path: Path) -> None:
    assert read_request(MINE.write(tmp_path)) == MINE
    first = Request("tiny_bert").write(tmp_path)
    assert "config_dir" not in json.loads(first.read_text()) and read_request(first) == Request("tiny_bert")


@pytest.mark.slow
def test_rows_of_one_s_own_stand_where_they_are_asked_for_alone(results: Path) -> None:
    default, own_model = Request("tiny_bert"), Request("mine_bert", config_dir="mine")
    for request in (MINE, own_model, default):
        write_tables(request, results)
    assert "Of my own" in table1(results, MINE) and "Of my own" not in table1(results, default)
    page = (results / "tables" / "index.html").read_text(encoding="utf-8")
    mine = page.index(f'<section id="{MINE.folder}-table1"')
    assert page.index("Of my own", mine) and "My model" in page and "--config-dir=mine" in page
    renew_page(results)
    assert (results / "tables" / "index.html").read_text(encoding="utf-8") == page


def test_a_folder_that_is_gone_is_named_with_what_asks_for_it(results: Path) -> None:
    write_tables(MINE, results)
    (results.parent / "mine").rename(results.parent / "yours")
    with pytest.raises(ConfigError, match=r"request\.json asks for --config-dir=mine"):
        write_tables(Request("tiny_bert"), results)


@pytest.mark.slow
def test_claims_figures_and_plans_take_the_folder(
    results: Path, called: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "save", lambda figure, path: path)  # most of the time goes into the pictures
    done = called("scripts/report.py", "claims", "--config-dir=mine", "model=tiny_bert")
    assert done.returncode == 0, done.stderr
    text = (results / "claims" / f"{MINE.folder}.md").read_text(encoding="utf-8")
    assert f"`{MINE.make('claims')}`" in text and done.stdout == text
    done = called("scripts/report.py", "figures", "--config-dir=mine", "model=tiny_bert")
    assert done.returncode == 0, done.stderr
    page = (results / "figures" / MINE.folder / "index.html").read_text(encoding="utf-8")
    assert f'href="../../claims/{MINE.folder}.md"' in page and MINE.make("figures") in page
    words = ("plan", "--config-dir=mine", "table=1", "model=tiny_bert", "task=cr,trec", "method=mine_low")
    planned = called("scripts/report.py", *words).stdout.splitlines()
    assert sum("--config-dir=mine" in line and "task=trec" in line for line in planned) == 3
    assert not any("task=cr" in line for line in planned)


def test_make_hands_the_folder_on(repo: Path) -> None:
    for target in ("tables", "claims", "figures", "plan", "landscape"):
        done = subprocess.run(
            ["make", "-n", target, "CONFIG_DIR=my own"], cwd=repo, capture_output=True, text=True
        )
        assert done.returncode == 0 and f"report.py {target} --config-dir 'my own'" in done.stdout, (
            done.stderr
        )
