"""Measurements: throughput beside its peers (``python -m bench``) and memory (``python -m bench.memory``)."""
