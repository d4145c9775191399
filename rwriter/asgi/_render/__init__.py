"""Renders stored rows as the JSON that the official clients read."""
