"""The version, written once: packaging reads this file, and so does everything that prints it."""

__version__ = "0.1.0"
