"""Replicas behind a router: hand-offs, migrations, links, faults, scaling."""
