"""The report of a run: its text, its plots, its drawings of cells."""
