"""Replace faces and license plates in street images by generated ones, and measure what leaked and what was lost."""

__version__ = "0.1.0"
