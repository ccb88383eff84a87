"""One module per figure; each prints ratios against a named reference. `make bench` runs all."""
