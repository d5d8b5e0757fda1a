"""LaTeX: balanced, as many columns in every row, nothing unescaped; compiled where TeX is installed."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from every_state import SPEC, every_state

from layertune.report.index import RecordIndex
from layertune.report.render.build import sheet_of
from layertune.report.render.latex import escaped, to_latex
from layertune.report.request import TABLES, Request
from layertune.report.values import table_values

DOCUMENT = r"""\documentclass{article}
\usepackage[landscape,margin=1cm]{geometry}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All ten tables without a record, and the one with every state."""
    request, empty = Request(), RecordIndex([])
    found = {name: to_latex(sheet_of(table_values(request.table(name), empty), request)) for name in TABLES}
    every = every_state(tmp_path_factory.mktemp("runs"))
    return found | {"every_state": to_latex(sheet_of(every, request))}


def test_special_characters_become_text() -> None:
    assert escaped("a_b & 5 % #1 {x} ~ ^ \\") == (
        r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escaped("90.8 ± 0.3 — (IA)³") == r"90.8 $\pm$ 0.3 --- (IA)\textsuperscript{3}"
    assert escaped("[2pt]*") == "{[}2pt{]}{*}"  # after \\ they would be read as an argument


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("über", r"\"uber"),
        ("café Ångström", r"caf\'e \r Angstr\"om"),
        ("straße, smørbrød", r"stra\ss{}e, sm\o{}rbr\o{}d"),
        ("two\nlines", "two lines"),
        ("Ж 映", "{[}U+0416{]} {[}U+6620{]}"),
    ],
)
def test_every_character_has_a_name(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_a_title_of_any_letters_and_lines_leaves_the_table_whole() -> None:
    request, empty = Request(), RecordIndex([])
    sheet = sheet_of(table_values(request.table("table1"), empty), request)
    text = to_latex(dataclasses.replace(sheet, title="Table 1, Bär\n% 映"))
    assert text.isascii()
    first, second, *_ = text.splitlines()
    assert first.startswith("% Table 1, B") and second.startswith(r"\begin{table*}")


def test_environments_and_braces_are_balanced(tables: dict[str, str]) -> None:
    for name, text in tables.items():
        opened: list[str] = []
        for kind, environment in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
            if kind == "begin":
                opened.append(environment)
            else:
                assert opened.pop() == environment, name
        assert not opened, name
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}"), name


def test_every_row_has_as_many_cells_as_the_table_has_columns(tables: dict[str, str]) -> None:
    for name, text in tables.items():
        columns = re.search(r"\\begin\{tabular\}\{l(c+)\}", text)
        assert columns is not None, name
        spec = SPEC if name == "every_state" else Request().table(name)
        assert len(columns[1]) == len(spec.columns), name
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if " & " in line]
        assert len(rows) >= 1 + len(spec.rows), name
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]), (name, row)
            assert row.endswith((r" \\", r" \\[2pt]")), (name, row)


def test_nothing_but_booktabs_is_needed(tables: dict[str, str]) -> None:
    plain = {
        "begin", "end", "centering", "caption", "label", "scriptsize", "setlength", "tabcolsep", "toprule",
        "midrule", "bottomrule", "multicolumn", "textit", "textbf", "underline", "texttt", "textsuperscript",
        "tiny", "quad", "par", "medskip", "textwidth", "raggedright", "shortstack", "pm", "to", "cdot",
        "times",
        "le", "ge", "approx", "uparrow", "downarrow", "alpha", "Delta", "ddag", "dag", "S", "P",
        "textbackslash", "textasciitilde", "textasciicircum", "textasciigrave", "textless", "textgreater",
        "textbar",
    }  # fmt: skip
    for name, text in tables.items():
        code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert code.isascii(), name
        assert set(re.findall(r"\\([A-Za-z]+)", code.replace(r"\\", ""))) <= plain, name


def test_it_compiles(tables: dict[str, str], tmp_path: Path) -> None:
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None or not _knows("booktabs.sty"):
        pytest.skip("no TeX engine with booktabs is installed; the other tests check the structure")
    document = tmp_path / "tables.tex"
    document.write_text(DOCUMENT % "\n\\clearpage\n".join(tables.values()), encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if engine.endswith("pdflatex") else []
    done = subprocess.run([engine, *options, document.name], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


def _knows(package: str) -> bool:
    """Whether the TeX installation has a package; an engine that fetches packages has them all."""
    finder = shutil.which("kpsewhich")
    return finder is None or bool(subprocess.run([finder, package], capture_output=True, check=False).stdout)
