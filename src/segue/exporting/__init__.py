"""Models for other programs: ONNX, TorchScript, packages of bioimage.io, and segue's own folder in half precision."""
