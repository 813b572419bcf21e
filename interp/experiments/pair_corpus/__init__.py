"""Pairs of prompts in any number: in shards, by sums that add up, with the engine of corpora."""
