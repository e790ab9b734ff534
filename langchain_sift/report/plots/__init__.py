"""Draw the plots of a report."""

from langchain_sift.errors import require

require("compare", "matplotlib")
