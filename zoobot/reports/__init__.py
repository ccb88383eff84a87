"""How people see finished experiments: comparisons, the HTML page, and Weights & Biases.

A report reads folders and changes nothing in them.
"""
