"""The routes that read recorded responses back. Knows nothing of the capture."""
