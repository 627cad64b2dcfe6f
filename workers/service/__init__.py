"""A worker as a service of the machine: its processes, their health, what systemd is told."""
