"""Shipped models: one .safetensors and one card (.md) each."""
