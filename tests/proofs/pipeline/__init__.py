"""The pipelines of scripts/pipelines.sh: base.py says what one is."""
