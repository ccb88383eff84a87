"""What people see of finished experiments: their comparison, the HTML page, and Weights & Biases.

A report reads folders and changes none of them.
"""
