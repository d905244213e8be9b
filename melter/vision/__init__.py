"""Seeing the light: cameras, calibration, the bed's pose, the patch tracker and a synthetic camera.

Import what you need from its module (``from melter.vision.tracker import PatchTracker``); importing this package
loads no OpenCV.
"""
