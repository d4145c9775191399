"""Checks and types that the values of the library share: texts repaired and escaped, keys digested, bodies hidden."""
