"""Devices, random numbers, precision, processes, files, units and progress."""
