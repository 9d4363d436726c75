"""Running a detector on streams: state from window to window, replay of recordings, drawing."""
