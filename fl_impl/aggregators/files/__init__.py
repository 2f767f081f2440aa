"""Aggregation of updates that lie in files and need not fit into memory: `aggregate_files`."""
