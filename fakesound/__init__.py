"""FakeSound Mamba: was this recording forged, and which stretches of it were."""

__version__ = "0.1.0"
