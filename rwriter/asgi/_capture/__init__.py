"""Makes a record of each exchange between a client and the app. Imports nothing of the reader."""
