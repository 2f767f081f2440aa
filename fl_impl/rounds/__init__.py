"""The stages of a round, each a plain function; the coordinator strings them together."""
