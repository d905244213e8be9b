"""Identification of a machine from recorded runs: what is behind the counters, and how well it is known.

A recording tells where the winches' counters stood and where the light patch was seen. The simulation of
:mod:`melter.env` is driven by the counters, and the machine is looked for whose light falls where it was seen;
what the recording cannot tell stays as the randomisation table has it. See ``docs/calibration.md``.
"""
