"""Optics, cables and the sun as functions of plain values; numpy is all it needs to be imported."""
