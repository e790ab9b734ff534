"""Summarize a comparison, and write it as a page, Markdown, JSON and plots."""
