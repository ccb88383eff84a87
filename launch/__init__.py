"""One iteration a day on EC2: ``python -m launch COMMAND --config launch/ec2.yaml``; the guide is docs/ec2.md.

    config   ec2.yaml, checked             aws       every call to AWS: retried, recorded
    setup    what lasts: volume, roles,    day       up, run, down, and all three
             group, template, schedule     start     one machine: type, market, token, tags
    policy   who may do what               backup    snapshots; restore, drill: a volume from one
    managed  the boundary of the roles     budget, notice   what stops machines: AWS Budgets, EventBridge
    revision the commit of a branch        job       commands on as many machines as it takes: simulate, prepare, bench
    words    what run.py would do          *.sh      what the machine runs: environment.sh and its parts
    cost     prices and the worst month    local     the same day on a plain machine
    audit    what costs money, and who     teardown  the way out
             uses it                       errors    what AWS and boto3 say, and what to do

The machine attaches the volume itself: EBS lets one machine have it, so the volume is the lock that always holds.
Nothing of zoobot is imported here: the machine runs it, this program only starts machines.
"""
