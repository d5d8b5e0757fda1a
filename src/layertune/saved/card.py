"""The model card of a kept model, from its record: what it is, what it learnt from, reached and cost."""

from __future__ import annotations

import json
import re
from pathlib import Path

from layertune.config import RunConfig
from layertune.config.weights import weights_folder
from layertune.errors import ConfigError
from layertune.records import Record
from layertune.records.record import OPEN_METRICS

LOADING = {
    "transformers": """```python
from transformers import pipeline

print(pipeline("text-classification", "<this folder>", truncation=True)("a sentence"))
```""",
    "generation": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("<this folder>")
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```""",
    "peft": """```python
from peft import {auto}
from transformers import AutoTokenizer

model = {auto}.from_pretrained("<this folder>", dtype="float32"{classes})  # however the base is stored
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```""",
    "layertune": """```python
import layertune

print(layertune.load("<this folder>").predict(["a sentence"]))
```""",
}


def model_card(run: RunConfig, record: Record, epoch: int, form: str) -> str:
    """Return the card as Markdown with its front matter.

    Args:
        run: what was asked.
        record: of the finished run.
        epoch: whose weights are kept.
        form: of the folder: transformers, peft or layertune.
    """
    data, model, training = record.data, record.model, record.training
    assert data is not None and model is not None and training is not None
    licence = _licence_of_base(run)
    generated = run.task.kind == "generation"
    front = {
        "library_name": form,
        "pipeline_tag": "text-generation" if generated else "text-classification",
        "license": licence or "unknown",
        "tags": ["layertune", f"layertune-{run.method.name}"],
    }
    if model.source not in ("local", "random") and not model.source.startswith("package:"):
        front["base_model"] = model.source
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    base, rows_from = _base(run), _data(run)
    method = run.method.title or run.method.name
    lines += [f"# {base}, {rows_from}", ""]
    counts = ", ".join(f"{name} {count:,}" for name, count in data.counts.items())
    origin = f"`{model.source}`" + (f" at `{model.revision}`" if model.revision else "")
    rows = [
        ("base", f"{base} ({origin})"),
        ("licence of the base", licence or "not known: see where it came from"),
        ("data", f"{rows_from} ({data.source}, {data.status}); rows: {counts}"),
        ("labels", ", ".join(data.labels) or "numbers" if not generated else "—"),
        ("method", f"{method} (`{run.method.name}`), train={run.train.mode}"),
    ]
    if record.selection is not None and record.selection.layers is not None:
        chosen = ", ".join(map(str, record.selection.layers))
        rows.append(("trained layers", f"{chosen} of {run.model.num_layers}"))
    else:
        rows.append(("trained layers", "see the method"))
    share = f"{100 * model.trainable_share:.1f} %"
    rows += [
        ("trained parameters", f"{model.num_trainable:,} of {model.parameters:,} ({share})"),
        (
            "training",
            f"{training.epochs} epochs, batch {training.batch_size}, rate {training.learning_rate:g}, "
            f"seed {run.seed}; the weights are those of epoch {epoch}",
        ),
        ("cost", _cost(record)),
        ("run", f"`{record.run_id}`"),
    ]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows), ""]
    lines += ["## Scores", "", "| data | n | metric | value |", "|---|---|---|---|"]
    metrics = record.metrics
    scores = {} if metrics is None else metrics.at(run.save_epoch)
    for name, values in scores.items():
        for metric, value in values.items():
            if isinstance(value, float):
                shown = f"{value:.4f}" if metric in OPEN_METRICS else f"{100 * value:.1f} %"
                lines.append(f"| {_cell(name)} | {data.counts.get(name, 0):,} | {metric} | {shown} |")
    if run.save_epoch == "best":
        lines += ["", "The epoch was chosen on these rows: the scores flatter it."]
    code = LOADING["generation" if generated and form == "transformers" else form]
    auto = "AutoPeftModelForCausalLM" if generated else "AutoPeftModelForSequenceClassification"
    classes = "" if generated else f", num_labels={max(1, len(data.labels))}"
    lines += ["", "## Use", "", code.replace("{auto}", auto).replace("{classes}", classes), ""]
    return "\n".join(lines)


def _base(run: RunConfig) -> str:
    """Return the name of the base; of one of one's own its folder's, without where that lies, or its id."""
    model = run.model
    if model.name != "own":
        return model.title or model.name
    return Path(model.path).name if model.path else model.source


def _data(run: RunConfig) -> str:
    """Return the name of the data; of one's own those of the files, without where they lie."""
    files = [Path(name).name for name in (run.own.train, run.own.eval) if name is not None]
    return " and ".join(files) if run.task.source == "own" else run.task.title or run.task.name


def _cost(record: Record) -> str:
    training, env = record.training, record.env
    assert training is not None
    words = {"choosing": "to choose layers", "cache": "for the cache", "training": "of training"}
    parts = [f"{seconds:.1f} s {words[part]}" for part, seconds in record.seconds.items() if seconds]
    if training.peak_memory_bytes:
        parts.append(f"{training.peak_memory_bytes / 2**20:,.0f} MiB at most")
    return ", ".join(parts) + (f" on {env.device_name}" if env is not None else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _licence_of_base(run: RunConfig) -> str | None:
    """Return the licence that the base's own card names, where the base is a folder with one."""
    try:
        folder = weights_folder(run.model)
        card = Path(folder, "README.md").read_text(encoding="utf-8") if folder else ""
    except (OSError, ValueError, ConfigError):
        return None
    front = re.match(r"---\n(.*?)\n---", card, re.S)
    found = re.search(r"^license:\s*['\"]?([\w.-]+)", front[1], re.M) if front else None
    return found[1] if found else None
