"""The contract as tests that authors of analyses run."""
