"""One file per figure; each prints a ratio against a named reference, in one run."""
