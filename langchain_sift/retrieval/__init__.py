"""Retrieve documents for a query: settings, search, scores and explanation."""
