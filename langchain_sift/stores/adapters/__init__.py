"""One module for each kind of vector store."""
