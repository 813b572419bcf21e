"""Builder of docs/findings.md: what a real language model shows, each number measured.

`python -m docs.findings_build` runs the library's public functions on SmolLM2-135M-Instruct and
writes docs/data/findings.json, the figures in docs/images/findings and the page. Every finding is
a module with `TITLE`, `measure` (a model to numbers and figures) and `tell` (numbers to Markdown).
`tell` sees numbers only: a sentence on a direction is chosen by its interval, and no number of a
measurement is typed. `docs/findings_build/page.py` puts the page together.
"""
