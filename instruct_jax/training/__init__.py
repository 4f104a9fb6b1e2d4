"""Training machinery shared by every stage: state, optimizer, loop, checkpoints, metrics and guards."""
