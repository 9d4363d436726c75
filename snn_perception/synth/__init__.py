"""Synthetic driving recordings: a street, what moves in it, the camera that drives through, and the sensor."""
