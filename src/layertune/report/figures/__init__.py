"""Figures of the report, drawn from records alone; matplotlib is imported only when one is drawn."""

from layertune.report.figures.scores import Scores, plot_record, plot_similarity
from layertune.report.layer_scores import KeptScores

__all__ = ["KeptScores", "Scores", "plot_record", "plot_similarity"]
