"""Detectors: a log-mel spectrogram and a mask in, one clip logit and a logit per 10 ms frame out."""
