"""One retrieval: its settings, the search for candidates, the choice and its scores."""
