"""Every script prints on a terminal of any encoding, and what it worked out is not lost."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layertune.command_line import any_terminal, run_script
from layertune.errors import ConfigError, RecordError

SCRIPTS = sorted(path.name for path in (Path(__file__).parents[1] / "scripts").glob("[a-z]*.py"))
SCRIPTS += ["benchmark/__main__.py"]


@pytest.mark.parametrize(
    ("encoding", "printed"), [("cp1252", "a ± b # ü ?"), ("ascii", "a +- b # u ?"), ("utf-8", "a ± b █ ü 映")]
)
def test_characters_that_a_terminal_lacks_are_printed_as_others(monkeypatch, encoding, printed):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    any_terminal()
    print("a ± b █ ü 映", end="", flush=True)
    assert written.getvalue().decode(encoding) == printed


def test_half_a_character_is_printed_as_a_question_mark(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    any_terminal()
    print("\udcff", end="", flush=True)
    assert written.getvalue() == b"?"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_called_through_the_one_door(repo, name):
    text = (repo / "scripts" / name).read_text(encoding="utf-8")
    assert "run_script(" in text.rpartition('if __name__ == "__main__":')[2]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_table_of_records_is_printed_in_ascii(repo, encoding):
    records = [str(path) for path in sorted((repo / "results" / "runs").glob("gte_small-trec-low_k-*"))]
    done = subprocess.run(
        [sys.executable, str(repo / "scripts" / "report.py"), "compare", "--means", *records],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "low_k" in done.stdout.decode(encoding)


def test_a_composed_configuration_is_printed_in_ascii(repo):
    done = subprocess.run(
        [sys.executable, "run.py", "--cfg", "job", "model=tiny_bert", "task=olid", "method=low_k"],
        cwd=repo,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no k"), 2),
        (RecordError(Path("a.json"), "half"), 2),
        (OSError("full"), 2),
        (None, 0),
    ],
)
def test_a_script_ends_with_a_code_and_one_sentence(capsys, error, code):
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == (error is not None)


def test_a_reader_that_closes_the_pipe_early_is_no_error(repo):
    command = f"{sys.executable} scripts/report.py plan table=1 | head -n 1"
    done = subprocess.run(command, shell=True, cwd=repo, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
