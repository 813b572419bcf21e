"""The lens: statistics of the vocabulary for many states, without the logits in memory."""
