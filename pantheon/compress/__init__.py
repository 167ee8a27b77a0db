"""Compression as stages: (model, knowledge) -> (model, report)."""
