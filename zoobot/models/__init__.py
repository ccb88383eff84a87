"""Networks: encoders, heads, their training, pretraining, and the features of stored images.

A model knows images, counts and groups of answers. It knows nothing of iterations, pools or oracles.
"""
