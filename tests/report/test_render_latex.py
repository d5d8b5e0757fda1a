"""LaTeX: balanced, as many cells in every row, nothing unescaped, no wider than A4 where TeX is installed."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from every_state import every_state

from layertune.report.index import RecordIndex
from layertune.report.render.build import sheet_of
from layertune.report.render.formats import escaped_latex as escaped
from layertune.report.render.formats import to_latex
from layertune.report.render.sheet import Line, Sheet
from layertune.report.request import Request
from layertune.report.spec import printed_tables
from layertune.report.values import table_values

DOCUMENT = r"""\documentclass[a4paper]{article}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


FULL = (
    Line("93.4 ± 0.2", count="(3; ±1.1)", marks=("‡",), rank="best"),
    Line("92.1 → 91.8 ± 0.3", role="paper", delta="+1.3", marks=("1",)),
)  # as wide as a cell gets


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sheet]:
    """All ten tables without a record and with all of them, and the one with every state."""
    request, index = Request(), RecordIndex([])
    found = {name: sheet_of(table_values(request.table(name), index), request) for name in printed_tables()}
    found |= {
        f"full {name}": dataclasses.replace(
            sheet, rows=tuple(dataclasses.replace(row, cells=(FULL,) * len(row.cells)) for row in sheet.rows)
        )
        for name, sheet in found.items()
    }
    return found | {"every_state": sheet_of(every_state(tmp_path_factory.mktemp("runs")), request)}


@pytest.fixture(scope="module")
def tables(sheets: dict[str, Sheet]) -> dict[str, str]:
    return {name: to_latex(sheet, name.replace(" ", "-")) for name, sheet in sheets.items()}


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


def test_the_parts_of_a_table_hold_each_cell_once(tables: dict[str, str], sheets: dict[str, Sheet]) -> None:
    for name, text in tables.items():
        cells = 0
        for part in text.split(r"\begin{tabular}")[1:]:
            columns = re.match(r"\{l(c+)\}", part)
            assert columns is not None, name
            body = part.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
            rows = [line for line in body.splitlines() if " & " in line]
            for row in rows:
                assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]), (name, row)
                assert row.endswith((r" \\", r" \\[2pt]")), (name, row)
            own = [row for row in rows[1:] if not row.startswith(r"\quad{\tiny paper}")]
            cells += len(own) * len(columns[1])
        assert cells == sheets[name].cells, name
        assert text.count(r"\label{") == 1 and text.count(r"\addtocounter") == text.count("(continued)")


def test_tables_of_different_models_and_settings_have_labels_of_their_own(sheets: dict[str, Sheet]) -> None:
    sheet = sheets["table1"]
    labels = [
        re.findall(r"\\label\{(.+)\}", to_latex(sheet, folder)) for folder in ("bert", "bert-train=fast")
    ]
    assert labels == [["tab:bert-table1"], ["tab:bert-train=fast-table1"]]


def test_nothing_but_booktabs_is_needed(tables: dict[str, str]) -> None:
    plain = {
        "begin", "end", "centering", "caption", "label", "scriptsize", "setlength", "tabcolsep", "toprule",
        "midrule", "bottomrule", "multicolumn", "textit", "textbf", "underline", "texttt", "textsuperscript",
        "tiny", "quad", "par", "raggedright", "shortstack", "pm", "to", "cdot",
        "times",
        "le", "ge", "approx", "addtocounter", "begingroup", "endgroup", "uparrow", "downarrow", "alpha",
        "Delta", "ddag", "dag", "S", "P",
        "textbackslash", "textasciitilde", "textasciicircum", "textasciigrave", "textless", "textgreater",
        "textbar",
    }  # fmt: skip
    for name, text in tables.items():
        code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert code.isascii(), name
        assert set(re.findall(r"\\([A-Za-z]+)", code.replace(r"\\", ""))) <= plain, name


def test_it_compiles_and_nothing_is_wider_or_longer_than_a_page(
    tables: dict[str, str], tmp_path: Path
) -> None:
    engine = shutil.which("pdflatex")
    if engine is None or not _knows("booktabs.sty"):
        pytest.skip("no pdflatex with booktabs is installed; the other tests check the structure")
    document = tmp_path / "tables.tex"
    document.write_text(DOCUMENT % "\n\\clearpage\n".join(tables.values()), encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", document.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    log = (tmp_path / "tables.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
    assert [line for line in log.splitlines() if re.search("Overfull|too large|multiply", line)] == []


def _knows(package: str) -> bool:
    """Whether the TeX installation has a package; an engine that fetches packages has them all."""
    finder = shutil.which("kpsewhich")
    return finder is None or bool(subprocess.run([finder, package], capture_output=True, check=False).stdout)
