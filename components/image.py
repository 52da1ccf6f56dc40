"""The image that components name until the pipeline's `image` parameter replaces it."""

IMAGE = "fakesound:0.1.0-cpu"
