"""The notebooks run from top to bottom, on the demo model and the committed records."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest

from scripts.notebooks import execute

NAMES = ("01_quickstart", "02_layer_similarity", "03_results")


def sources(repo, name, kind="code"):
    tree = json.loads((repo / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in tree["cells"] if cell["cell_type"] == kind]


def test_the_notebooks_are_the_three(repo):
    assert sorted(path.stem for path in (repo / "notebooks").glob("*.ipynb")) == sorted(NAMES)


def texts(notebook):
    """What the cells print or return, but for pictures."""
    found = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in found]


@pytest.mark.parametrize(("name", "pictures"), zip(NAMES, (0, 1, 1), strict=True))
def test_a_notebook_is_kept_with_its_outputs_and_without_paths_of_a_machine(repo, name, pictures):
    path = repo / "notebooks" / f"{name}.ipynb"
    assert not re.search(r'"(/|[A-Z]:\\|~)', path.read_text(encoding="utf-8"))
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    assert texts(notebook) and not any(output.get("name") == "stderr" for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)


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
        ("03_results", (r"low_k .*tuned +10 11 12", r"frozen_unchanged=True", r"coverage: \d+ of \d+ runs")),
    ],
)
def test_a_notebook_runs(repo, name, shown):
    path = repo / "notebooks" / f"{name}.ipynb"
    found = texts(execute(path))
    for pattern in shown:
        assert re.search(pattern, "\n".join(found)), f"{pattern} is not in\n{found}"
    if name != NAMES[0]:  # what a model computes differs in its last digits from machine to machine
        assert found == texts(nbformat.read(path, as_version=4)), (
            "the records say something else: make notebooks"
        )
