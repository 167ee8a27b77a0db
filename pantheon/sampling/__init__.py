"""Which samples are seen when, read by whom, and cut into which batches."""
