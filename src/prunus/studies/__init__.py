"""Studies: a checked configuration, its grid of cells, the store of what is finished, and the report."""
