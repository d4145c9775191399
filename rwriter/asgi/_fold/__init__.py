"""Folds streams into the objects that the official clients would build from them."""
