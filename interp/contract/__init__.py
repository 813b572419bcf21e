"""The contract of an analysis: what its author writes, and the state it adds up to.

What an author needs stands at the top (`interp.Analysis`, `interp.PerToken`, …); this page imports
nothing, so that the list of analyses can be read without them.
"""
