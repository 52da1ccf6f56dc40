"""Adapters of public datasets: one file each, one protocol: a folder in, clips with labels out.

`registry` finds them; docs/adapters.md says what each needs on disk and how to add one.
"""
