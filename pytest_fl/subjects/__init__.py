"""What is judged: a rule or another part, a round of updates, and how a foreign call is guarded."""
