"""Active learning for Galaxy Zoo."""

import sqlite3  # noqa: F401  # before TensorFlow, whose own SQLite of another version would stand in and write other bytes
