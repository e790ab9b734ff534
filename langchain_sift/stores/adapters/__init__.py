"""Adapters of vector stores, one module for each kind."""
