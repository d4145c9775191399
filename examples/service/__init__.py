"""A service with tables and an Alembic of its own beside rwriter's, in each of the three ways to migrate both.

``apart/``, ``version_locations/`` and ``merged/`` are three states of one project: each has its ``alembic.ini`` and its
revisions, and they share ``env.py`` and the models. The URL is read from ``SERVICE_DATABASE_URL``.
"""
