"""Labelled events for training and tests: targets, and generated scenes whose truth is known."""
