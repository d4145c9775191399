"""What passes between a client and the app becomes a record. Knows nothing of the reader."""
