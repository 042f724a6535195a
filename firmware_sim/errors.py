"""What can be wrong with a bench before anything runs."""

from __future__ import annotations


class BenchError(Exception):
    """A mistake in the bench file, as a sentence that names the place and the mend."""
