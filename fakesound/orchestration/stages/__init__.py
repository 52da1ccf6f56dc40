"""The stages of a run: one function each, called by the command line and by the pipeline's components.

They take strings (store URL, configuration, paths of pointer files) and write pointer files: all that any
orchestrator can carry.
"""
