"""Configs: `default` has every knob, the others say what they change."""
