"""Packaged YAML: protocols, experiments, presets, split lists."""
