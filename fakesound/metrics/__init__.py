"""Figures of merit, vectorised in numpy. Labels: 1 = forged. A score at or above a threshold means forged."""
