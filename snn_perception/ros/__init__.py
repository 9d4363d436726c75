"""The ROS 2 edge: nodes, messages and parameters. Nothing outside this folder and `launch/` imports ROS."""
