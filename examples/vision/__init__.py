"""Small views of real photographs, the nets that learn to tell them apart, and their accuracy."""
