"""ROS 2 front ends. Nothing outside this package imports ROS; importing this package does not either."""
