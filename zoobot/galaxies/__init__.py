"""Galaxies and what is asked about them: questions, tasks, survey tables, pictures, TFRecords and their SQLite index.

Nothing here counts raw classifications, predicts, or chooses. This face stays empty, so that reading questions loads
neither TensorFlow nor pandas.
"""
