"""Images of ordinary cameras: their messages, pixels, recordings, and the windows they make."""
