"""Devices, and what they compute in."""
