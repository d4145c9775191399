"""``python -m examples.gateway``: the tour."""

from __future__ import annotations

import sys

from examples.gateway.tour import main

sys.exit(main())
