"""A small gateway that records every call with rwriter, a fake model server behind it, and a tour of both.

``python -m examples.gateway`` takes the tour. ``app.py`` is the gateway, with the lines that matter between markers.
"""
