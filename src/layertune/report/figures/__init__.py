"""Figures of the report, drawn from records alone; matplotlib is imported only when one is drawn."""

from layertune.report.figures.similarity import KeptScores, Scores, plot_record, plot_similarity

__all__ = ["KeptScores", "Scores", "plot_record", "plot_similarity"]
