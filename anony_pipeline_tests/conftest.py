"""What all tests share."""

import os

from hypothesis import settings

# A merge must not fail by a draw of the dice: fast tests try the same examples each time, `make test-slow` new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
