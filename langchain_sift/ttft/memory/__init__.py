"""Estimate and measure the memory of an engine."""
