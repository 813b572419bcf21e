"""The explorer of a running model: prompts typed on its page are run and join the others."""
