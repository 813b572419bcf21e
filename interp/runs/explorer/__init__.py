"""The explorer: every number of a run on one page, at the token and the depth where it arose."""
