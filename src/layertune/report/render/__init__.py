"""Tables as text: one `Sheet` per table, written as Markdown, LaTeX, CSV and HTML."""
