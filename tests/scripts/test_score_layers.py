from __future__ import annotations

import runpy
import sys

import pytest

from layertune.config import ModelSpec
from layertune.models import load_model, load_tokenizer

TINY = {"model_type": "bert", "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def request_of(tmp_path, repo, monkeypatch, capsys):
    """Run the script on a saved random BERT; returns exit code, output and error output."""
    spec = ModelSpec(name="tiny", source="random", random_config=TINY)
    load_model(spec).save_pretrained(tmp_path / "tiny")
    load_tokenizer(spec)[0].save_pretrained(tmp_path / "tiny")
    (tmp_path / "texts.txt").write_text(
        "the film was great\n\nit was dull and boring\nfunny\n", encoding="utf-8"
    )

    capsys.readouterr()  # what saving printed

    def run(**options: object) -> tuple[int, str, str]:
        options = {"model": tmp_path / "tiny", "texts": tmp_path / "texts.txt", "k": 2, **options}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["score_layers.py", *arguments])
        code = 0
        try:
            runpy.run_path(str(repo / "scripts" / "score_layers.py"), run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_scores_bars_and_the_chosen_layers_are_printed_and_the_map_is_drawn(request_of, tmp_path):
    code, out, err = request_of(out=tmp_path / "map.png")
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 5)
    assert [line.split()[0].rstrip("*") for line in lines[:4]] == ["1", "2", "3", "4"]
    marked = [line.split()[0].rstrip("*") for line in lines[:4] if "*" in line]
    assert lines[4].startswith(f"tiny: 3 texts, low_k, k = 2: layers {', '.join(marked)} (")
    scores = {line.split()[0].rstrip("*"): float(line.replace("*", " ").split()[1]) for line in lines[:4]}
    others = [
        layer for layer in scores if layer not in marked
    ]  # printed to three digits: ties may look equal
    assert len(marked) == 2
    assert max(scores[layer] for layer in marked) <= min(scores[layer] for layer in others)
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "missing.txt"}, "missing.txt is missing or empty"),
        ({"model": "/no/such/folder"}, "/no/such/folder: there is no such folder"),
        ({"model": "someone/unknown"}, "someone/unknown"),
        ({"k": 4}, "k=4 is out of range: 4 layers allow 1 to 3"),
        ({"k": 0}, "k=0 is out of range"),
        ({"strategy": "best"}, "strategy=best does not exist; known: block_high"),
        ({"out": "/no/such/folder/map.png"}, "in a folder that exists"),
        ({"out": "map.docx"}, "name a .png, .pdf or .svg file"),
    ],
)
def test_a_request_that_cannot_be_met_ends_with_one_sentence_and_exit_code_two(request_of, options, message):
    code, out, err = request_of(**options)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe\xff"])
def test_a_file_without_readable_text_ends_with_one_sentence(request_of, tmp_path, content):
    (tmp_path / "bad.txt").write_bytes(content)
    code, _, err = request_of(texts=tmp_path / "bad.txt")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
