"""What a person sees in a terminal: progress, tables, a run as text."""
