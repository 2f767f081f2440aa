"""The `fl-experiment` command: one federation, grids of them, LoRA, and how results are shown."""
