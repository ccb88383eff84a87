"""One file per figure. Each prints a ratio to a named reference, measured in the same run."""
