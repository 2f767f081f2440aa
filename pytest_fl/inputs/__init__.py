"""Rounds to try on a rule: the fixed corpus, Hypothesis strategies, the adversary that searches for worse."""
