"""The report of a comparison: rows, summaries, intervals, tables, plots and the page."""
