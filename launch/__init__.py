"""One iteration a day on EC2: ``python -m launch COMMAND --config launch/ec2.yaml``; the guide is docs/ec2.md.

    config   ec2.yaml, checked             aws       every call to AWS: retried, recorded
    setup    what lasts: volume, roles,    day       up, run, down, and all three
             group, template, schedule     backup    snapshots, restore, the drill
    policy   who may do what               *.sh      what the machine runs: environment.sh and its parts
    cost     prices and the worst month    local     the same day on a plain machine
    job      commands on as many machines as it takes: simulate, prepare, bench

The machine attaches the volume itself: EBS lets one machine have it, so the volume is the lock that always holds.
Nothing of zoobot is imported here: the machine runs it, this program only starts machines.
"""
