"""One check on one subject: the runner, the cases that pytest sees, audits of parts, and shrinking."""
