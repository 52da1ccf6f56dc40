"""Corpora: recordings in, labelled clips in four partitions out, with the guards that make the benchmark mean anything."""
