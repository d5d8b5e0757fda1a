"""The notebooks run from top to bottom, on the demo model and the committed records."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

NAMES = ("01_quickstart", "02_layer_similarity", "03_results")


def sources(repo, name, kind="code"):
    tree = json.loads((repo / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in tree["cells"] if cell["cell_type"] == kind]


def test_the_notebooks_are_the_three(repo):
    assert sorted(path.stem for path in (repo / "notebooks").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_outputs_and_paths_of_a_machine(repo, name):
    text = (repo / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert not re.search(r'"(/|[A-Z]:\\|~)', text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_notebook_of_results_imports_records_and_report_alone(repo, name):
    modules = [
        node.module
        for source in sources(repo, name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("layertune")
    ]
    assert modules and all(module.split(".")[1] in ("records", "report") for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "01_quickstart",
            (r"layer 6: 0\.\d{3} ± 0\.\d{3}", r"layers \(\d, \d\): [\d,]+ of [\d,]+ parameters"),
        ),
        ("02_layer_similarity", (r"19 tasks", r"TREC +5 6 7 +10 11 12", r"two tasks: 171 pairs")),
        ("03_results", (r"low_k .*paper +10 11 12", r"frozen_unchanged=True", r"coverage: \d+ of \d+ runs")),
    ],
)
def test_a_notebook_runs(repo, name, shown):
    notebook = nbformat.read(repo / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(repo / "notebooks")}},
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    for pattern in shown:
        assert re.search(pattern, text), f"{pattern} is not in\n{text}"
