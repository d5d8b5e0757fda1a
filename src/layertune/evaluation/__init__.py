"""Scores of a trained model: classification metrics, generation, and the E2E NLG scorer."""
