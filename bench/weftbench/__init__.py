"""Measures Weft and its peers in alternating rounds.

Reading order: `cli` takes the command line, `programs` finds or installs what is run, `suites`
says what is measured, `configs` writes each proxy's file for it, `measure` runs the rounds with
`processes` and `load`, `report` prints and writes the result.

Python's standard library only.
"""
