"""Training: lanes of recordings or random windows, truncated back-propagation, exact resumption, several processes."""
