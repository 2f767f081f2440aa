"""Figures: of matplotlib, and as inline SVG."""
