"""What rules are compared with, computed here in float64 numpy: constants, definitions, the measured coefficient."""
