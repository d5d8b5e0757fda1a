"""A result file: numbers as JSON, beside them the page made of them, and a chart. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from layertune.config.files import write_atomic
from scripts.benchmark.project import BASE, LORA, PADDED, PADDING, USER, WIDEST, ends, growth_of

CHOICES = (
    "trainer_full_grouped",
    "trainer_lora",
    "trainer_top3",
    "published_top3",
    "fast_top3",
)  # in the chart


def save_result(path: Path, content: dict[str, Any]) -> None:
    """Write numbers to `path` (.json), then the page made of them beside it (.md), each whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomic(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(path.with_suffix(".md"), page_of(content).encode())


def page_of(content: dict[str, Any]) -> str:
    """Return the page of a result file: of arms side by side, or of what only a CUDA device shows."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    templates.filters["ratio"] = lambda found: printed(*found)
    if "steps" in content:
        text = templates.get_template("page_steps.md").render(content)
    else:
        text = templates.get_template("page.md").render(content, **_worked_out(content))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def printed(ratio: float, spread: float | None) -> str:
    """Return a ratio ± half its range over the rounds, both ends where they are too far apart, and the ratio
    alone where it was measured once.
    """
    if spread is None:
        return f"{ratio:.2f}"
    if spread > WIDEST:
        return "{:.2f} to {:.2f}".format(*ends(ratio, spread))
    return f"{ratio:.2f} ± {ratio * spread / 2:.2f}"


def _worked_out(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the page of arms says beside the numbers of the file."""
    tasks = content["tasks"] + content["real"]
    lines = [line for task in tasks for line in task["arms"]] + content["memory"] + content["profile"]
    rounds = [measured for one in content["rounds"] for measured in one.items()]
    taken: dict[str, int] = {}
    for arm, measured in rounds:
        taken[arm] = taken.get(arm, 0) + len(measured["step"]["seconds"])
    trainings = [row for part in content["growth"] for row in part.get("examples and epochs", [])]
    held = {line["arm"]: line["bytes"] - line["before"] for line in content["memory"]}
    return {
        "on_cuda": content["machine"]["clock"] == "wall clock",
        "arms": {line["arm"]: line for line in lines},
        "full": BASE,
        "others": [
            name for name in (PADDING, LORA, USER) if any(name in line.get("ratio_to", ()) for line in lines)
        ],
        "padded_steps": PADDED if PADDING in taken else None,
        "steps_taken": max(taken.values(), default=0),
        "read": sorted({n for _, measured in rounds for n in (measured["examples"] or {}).values()}),
        "widest": f"{100 * WIDEST:.0f} %",
        "held": held,
        "trainings": trainings,
        "growth_of_them": growth_of([(row["examples"], row["epochs"], row["seconds"]) for row in trainings])
        if len(trainings) > 3  # three are met exactly whatever they took
        else None,
        "by_depth": [row for part in content["growth"] for row in part.get("k and L", [])],
    }


def chart(content: dict[str, Any], path: Path) -> None:
    """Draw the arms that one would choose between beside plain full fine-tuning, on the file's first task;
    nothing where none of them was measured.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for task in content["real"] + content["tasks"]:
        lines = sorted(
            (x for x in task["arms"] if x["arm"] in CHOICES), key=lambda x: CHOICES.index(x["arm"])
        )
        if lines:
            break
    else:
        return
    where = content["machine"]
    figure, axis = pyplot.subplots(figsize=(8, 0.8 + 0.5 * len(lines)))
    for place, line in enumerate(lines):
        low, high = ends(line["ratio"], line["spread"] or 0.0)
        colour = "tab:grey" if line["arm"].startswith("trainer") else "tab:orange"
        clear = (line["spread"] or 0.0) <= WIDEST  # else the rounds differ too much for one number
        if clear:
            axis.barh(place, line["ratio"], xerr=(high - low) / 2, color=colour)
        else:
            axis.barh(place, high - low, left=low, color=colour, alpha=0.4)
        words = f"{line['ratio']:.1f}" if clear else f"{low:.1f} to {high:.1f}"
        axis.text(
            high, place, f"  {words}{' (projected)' if line['projected'] else ''}", va="center", fontsize=11
        )
    axis.set_yticks(range(len(lines)), [line["title"] for line in lines], fontsize=11)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.axvline(1.0, color="black", linewidth=1)
    axis.margins(x=0.2)  # room for the words
    axis.set_xlabel("times as fast as Trainer, full, dynamic padding", fontsize=11)
    model = "gte-small on " if task in content["real"] else ""
    figure.suptitle(
        f"{model}{task['task']}, {where['epochs']} epochs, selection and cache included ({where['device']})",
        fontsize=11,
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
