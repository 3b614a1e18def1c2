"""Judging: scores of maps and of doubt, calibration, reports."""
