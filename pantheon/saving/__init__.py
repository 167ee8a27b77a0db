"""Files that survive a kill: checkpoints, and what they are made of."""
