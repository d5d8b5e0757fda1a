"""Run the notebooks from top to bottom and store them with their outputs: `make notebooks`.

Warnings, progress bars and times are left out, so that a second run changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from layertune.command_line import run_script

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def execute(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs that it makes now."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, resources=resources
    ).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main(names: list[str]) -> None:
    """Run the named notebooks, or all."""
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(f"written: {path.name}")


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
