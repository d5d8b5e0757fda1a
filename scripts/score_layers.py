"""Score the layers of a pretrained model on your texts, choose k of them, draw the heat-map (§3.1, Fig. 2).

python scripts/score_layers.py --model <id or folder> --texts file.txt --k 3 [--out heatmap.png]

Exit code 2: the request cannot be met, and one sentence says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.config import ModelSpec
from layertune.config.files import expanded
from layertune.errors import ConfigError


def main(args: argparse.Namespace) -> None:
    """Score, select, print, draw."""
    if not args.texts.is_file() or not args.texts.stat().st_size:
        raise ConfigError(f"--texts {args.texts} is missing or empty: name a file with one text per line.")
    if args.out and not (args.out.parent.is_dir() and args.out.suffix in (".png", ".pdf", ".svg")):
        raise ConfigError(f"--out {args.out}: name a .png, .pdf or .svg file in a folder that exists.")
    folder = expanded(args.model)
    if args.model.startswith((".", "/", "~")) and not folder.is_dir():
        raise ConfigError(f"--model {args.model}: there is no such folder.")

    from layertune import score_layers, select_layers  # heavy imports, once the request looks right
    from layertune.models import load_model, load_tokenizer
    from layertune.report.figures import plot_similarity
    from layertune.tasks.formats import text_of

    texts = [line.strip() for line in text_of(args.texts).split("\n") if line.strip()]
    spec = ModelSpec(name=folder.name, source=args.model, path=str(folder) if folder.is_dir() else None)
    model = load_model(spec)
    select_layers([0.0] * model.config.num_hidden_layers, args.k, args.strategy)  # refused before the work
    scores = score_layers(model, (load_tokenizer(spec)[0], texts))
    layers = select_layers(scores, args.k, args.strategy)

    low, span = min(scores.values), (max(scores.values) - min(scores.values)) or 1.0
    for layer, (value, std) in enumerate(zip(scores.values, scores.std, strict=True), start=1):
        bar = "█" * (1 + round(39 * (value - low) / span))
        print(f"{layer:>3}{'*' if layer in layers else ' '} {value:.3f} ± {std:.3f} {bar}")
    title = f"{spec.name}: {scores.examples} texts, {args.strategy}, k = {args.k}"
    print(f"{title}: layers {', '.join(map(str, layers))} ({scores.seconds:.1f} s)")
    if args.out:
        plot_similarity(scores, layers, args.out, title=title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="hub id, folder, or package:<import name>:<folder>")
    parser.add_argument("--texts", required=True, type=Path, help="text file, one text per line")
    parser.add_argument("--k", required=True, type=int, help="how many layers to choose")
    parser.add_argument("--strategy", default="low_k", help="low_k (default), high_k, block_low, …")
    parser.add_argument("--out", type=Path, help="where to write the heat-map, for example heatmap.png")
    run_script(lambda: main(parser.parse_args()))
