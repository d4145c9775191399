"""The chain of the ledger: its secret, the tags of records, and entries that each seal the one before."""
