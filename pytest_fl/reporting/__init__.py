"""What was found and how it is shown: rows, runs, tables, the report, the page."""
