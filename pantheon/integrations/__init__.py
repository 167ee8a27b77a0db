"""Trainers of other libraries on a stream of knowledge; imported only by those who use them."""
