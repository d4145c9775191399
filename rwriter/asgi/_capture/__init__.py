"""Records of the calls that pass between clients and the app. Knows nothing of the reader."""
