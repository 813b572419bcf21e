"""A series: the same prompts and analyses over several models, one in memory at a time."""
