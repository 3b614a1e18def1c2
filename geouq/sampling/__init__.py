"""Doubt: keyed draws, the sampling plan, the engine that runs it, the estimators that sum it up."""
