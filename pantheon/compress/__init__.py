"""Compression as stages: each takes a model and a stream of knowledge, and answers a model and a report."""
