"""The scorer of the E2E NLG challenge: BLEU, NIST, METEOR, ROUGE-L and CIDEr, one output per item (Table 3).

`score` equals the challenge's own scorer (Perl mteval-v13a, COCO caption scorers, METEOR 1.5). `secondary`
computes what the paper's released code prints instead, under names of its own; the two are never mixed.
"""

from layertune.evaluation.nlg.released import secondary
from layertune.evaluation.nlg.scorer import score
from layertune.evaluation.nlg.text import as_text, clean

__all__ = ["as_text", "clean", "score", "secondary"]
