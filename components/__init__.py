"""KFP components: one folder a step, each a thin adapter with one call into `fakesound`."""
