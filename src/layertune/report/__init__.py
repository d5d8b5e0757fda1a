"""Tables, figures, plans and claims: questions asked of the records. Nothing here imports torch."""
