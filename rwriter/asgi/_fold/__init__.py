"""Streams folded to the objects that the official clients would have."""
