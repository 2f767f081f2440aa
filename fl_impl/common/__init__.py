"""What every room uses: specs, the registry, seeds, optional imports, array aliases. It imports no other room."""
