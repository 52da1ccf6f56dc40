"""Corpora: recordings in, labelled clips in four partitions out, with the guards that give them meaning."""
