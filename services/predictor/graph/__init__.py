"""Conversion of a safetensors checkpoint to an OpenVINO graph, with numpy and openvino only."""
