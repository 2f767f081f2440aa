"""One check on one subject: the search, its row, the cases that pytest sees, and shrinking."""
