"""The selective scan on the CPU."""

from fakesound.models.scan.portable import selective_scan

__all__ = ["selective_scan"]
