"""The rules themselves, a family a file; importing this package registers them all."""
