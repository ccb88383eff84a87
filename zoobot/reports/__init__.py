"""How people see finished experiments: comparisons, the HTML page, and Weights & Biases.

A report reads folders and changes nothing in them.
"""

import logging

logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # it makes its cache anew in each run
