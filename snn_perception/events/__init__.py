"""Events in: packet decoders, recordings, windows and representations. No ROS here; ROS hands over `Packet`s."""
