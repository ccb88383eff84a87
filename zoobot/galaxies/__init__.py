"""Galaxies and what is asked about them: questions, tasks, survey tables, pictures, TFRecords and their SQLite index.

This package does not count raw classifications, predict or choose. This file imports nothing, so that reading questions
loads neither TensorFlow nor pandas.
"""
