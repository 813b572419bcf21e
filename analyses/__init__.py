"""Built-in analyses, found through the entry-point group `interp.analyses`."""
