"""Score the layers of a pretrained model on your texts, choose k of them, draw the heat-map (§3.1, Fig. 2).

python scripts/score_layers.py --model <id or folder> --texts file.txt --k 3 [--out heatmap.png]

`layertune score <model> <texts> --k 3` is the same. Exit code 2: the request is wrong; one sentence says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.cli import add_score_arguments, score_command
from layertune.command_line import run_script

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="hub id, folder, or package:<import name>:<folder>")
    parser.add_argument("--texts", required=True, type=Path, help="text file, one text per line")
    add_score_arguments(parser)
    run_script(lambda: score_command(parser.parse_args()))
