"""What a run does unless told: plain values, so that a command line is read before torch is imported."""

DEFAULT_LAYERS = ("mask", "uncertainty", "confidence")
