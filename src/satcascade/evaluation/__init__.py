"""Measures of generated images against real ones; each module is one family of measures."""
