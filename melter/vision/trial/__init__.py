"""Scenes to judge the tracker by, and the score: a renderer of its own that shares no code with what it judges.

``light`` traces rays through a grooved sheet onto uneven sand, ``camera`` is a pinhole with distortion, ``stage`` is what
lies and stands around, ``sensor`` turns light into codes, ``scenes`` draws cases of each kind, ``score`` runs the tracker.
Only ``score`` imports the tracker.
"""
