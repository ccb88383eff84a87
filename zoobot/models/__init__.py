"""Networks: encoders and heads, their training and pretraining, and the features of stored images.

Models work on images, counts and groups of answers. They know nothing about iterations, pools or oracles.
"""

from zoobot.engine import quiet

quiet.imports()
