"""Training of one stage at a time: batches, loop, averaged weights, checkpoints."""
