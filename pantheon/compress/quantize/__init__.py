"""Quantization: which integers stand for a model's weights and activations."""
