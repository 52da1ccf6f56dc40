"""Forgery: attack families without neural weights, matched to what they replace, and genuine controls."""
