"""Retrieval: an index of vectors, made of codes, and the nearest of them to a query."""
