"""Camera pose and lens pose from one picture, by a small network trained on rendered ones.

``canonical`` brings any camera's picture to one small pinhole camera, ``labels`` turns poses into points of that picture
and back, ``draw`` and ``dataset`` render labelled pictures, ``train`` fits the network and writes it as ONNX (only
``network`` and ``train`` import torch), ``model`` runs it with OpenCV, ``score`` says how far off it is, ``check``
compares it with a bed solved from markers and starts one without.
"""
