"""The command line, the steps behind it, the report, the figures and the page."""
