"""A model as a function from samples to knowledge."""
