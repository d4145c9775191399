"""A year in production, in minutes: the clock is given, the server is embedded, and at the end everything adds up."""
