"""What the end-to-end tests share: scratch directories, runs, outcomes, tables.

Nothing here is used at run time. Every test goes through the built binary, and most have a control: HTMap 0.6.1's own
script, run on a copy of the same scratch directory.
"""
