"""Contracts between services: types, limits and identifiers, with their protobuf conversion.

`wire` is the only module that imports generated protobuf code.
"""
