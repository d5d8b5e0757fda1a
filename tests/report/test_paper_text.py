"""Every number of tables.csv against the reference file and against the tables in the paper's own text."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

SINGLE = ["SST-2", "SST-5", "MR", "CR", "MPQA", "Subj", "TREC", "CoLA"]
HEADINGS = {  # printed column heading -> dataset_printed, metric
    **{f"{name} (acc)": (name, "accuracy") for name in SINGLE},
    **{f"{name} (acc)": (name, "accuracy") for name in ["MNLI", "SNLI", "QNLI", "RTE"]},
    **{f"{name} (F1)": (name, "f1_macro") for name in ["MRPC", "QQP"]},
    "STS-B (Pear.)": ("STS-B", "pearson"),
    "Avg.": ("Avg.", "mean"),
    "# Trainable Parameters": ("E2E", "trainable_parameters"),
    "#Params↓": ("", "trainable_parameters"),
    "Avg Speedup ↑": ("", "speedup"),
    **{name: ("E2E", name.lower().replace("-", "_")) for name in ["BLEU", "NIST", "ROUGE-L", "CIDEr"]},
    "MET": ("E2E", "meteor"),
}
MODELS = {"RoBERTa": "roberta", "DeBERTa": "deberta", "ELECTRA": "electra"}
MODELS |= {"Gemma-2-2B": "gemma2_2b", "TinyLlama-1.1B": "tinyllama"}


@pytest.fixture(scope="session")
def source(shared_data: Path) -> Path:
    folder = shared_data.parent / "paper"
    if not folder.is_dir():
        pytest.skip(f"real input missing: no folder {folder}")
    return folder


def test_every_number_is_that_of_the_reference_file(paper, source):
    with (source / "tables.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    theirs = [(int(line["table"]), line["mean"], line["std"]) for line in lines]
    assert [(n.table, n.printed, n.std_printed or "") for n in paper.numbers] == theirs
    labels = [line["method"].replace("(IA) ³", "(IA)³").replace("alpha", "α") for line in lines]
    assert [number.method_printed for number in paper.numbers] == labels
    headings = [
        f"{line['trained_on']} → {line['dataset']}" if line["trained_on"] else line["dataset"]
        for line in lines
    ]
    assert [number.dataset_printed for number in paper.numbers] == headings


@pytest.mark.parametrize("table", range(1, 11))
def test_every_number_stands_in_the_papers_text_at_its_row_and_column(paper, source, table):
    text = (source / "paper.txt").read_text(encoding="utf-8")
    read = _parse_table_5(text) if table == 5 else _parse(text, table)
    ours = {}
    for n in (one for one in paper.numbers if one.table == table):
        model = n.model if table == 6 else ""
        ours[n.group_printed, model, n.method_printed, n.dataset_printed, n.metric] = (
            n.printed,
            n.std_printed,
        )
    assert ours == read


def _section(text: str, table: int) -> list[str]:
    start = re.search(rf"^Table {table}\s*$", text, re.MULTILINE).end()
    after = re.search(r"^(Table \d+|\d\.\d\. .*|\d\. .*|CRedit.*)$", text[start:], re.MULTILINE)
    return text[start : start + after.start()].splitlines()


def _plain(label: str) -> str:
    label = re.sub(r"</?[ui]>|\$|\s*\[\d+\]$", "", label).replace("\\alpha", "α").replace("(IA) ³", "(IA)³")
    return re.sub(r"\s+", " ", label).strip()


def _printed(cell: str) -> tuple[str, str | None]:
    digits = re.sub(r"</?u>|\$|\s|M", "", cell.replace("\\pm", "±")).split("±")
    full = [number if number[0] != "." else f"0{number}" for number in digits]
    return full[0], full[1] if len(full) == 2 else None


def _parse(text: str, table: int) -> dict:
    """Read the tab-separated table: headings, groups (a label alone on its line), rows."""
    found, columns, group, model = {}, None, "", ""
    for line in _section(text, table):
        cells = [cell.strip() for cell in line.split("\t")]
        if columns is None:
            columns = [HEADINGS[_plain(cell)] for cell in cells if _plain(cell) in HEADINGS] or None
            continue
        if not line.strip() or (len(cells) == 1 and len(line) > 60):
            continue
        if not any(cells[1:]):
            group = _plain(cells[0])
            continue
        if table == 6:
            model = MODELS.get(cells[0], model)
            cells = cells[-1 - len(columns) :]
        assert len(cells) == 1 + len(columns), line
        for (dataset, metric), cell in zip(columns, cells[1:], strict=True):
            if cell != "–":
                found[group, model, _plain(cells[0]), dataset, metric] = _printed(cell)
    return found


def _parse_table_5(text: str) -> dict:
    """Read Table 5, which names a pair only on the middle one of its eight rows."""
    blocks: list[list[list[str]]] = []
    for line in _section(text, 5):
        cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
        if len(cells) < 2 or cells[0] == "Method":
            continue
        if cells[0] == "Full Fine-tuning":
            blocks.append([])
        blocks[-1].append(cells)
    found = {}
    for block in blocks:
        train, evaluation = next(cells[1:3] for cells in block if len(cells) == 4)
        for cells in block:
            found["", "", cells[0], f"{train} → {evaluation}", "accuracy"] = _printed(cells[-1])
    return found
