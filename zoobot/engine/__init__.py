"""How work runs: processes of their own, progress of long work, one random stream per purpose.

Nothing here knows what the work is about: no galaxy, no setting, no folder format.
"""
