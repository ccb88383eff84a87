"""Active learning for Galaxy Zoo."""

# Before TensorFlow: otherwise its own SQLite, of another version, is used and writes different bytes.
import sqlite3  # noqa: F401

__version__ = "0.1.0"
