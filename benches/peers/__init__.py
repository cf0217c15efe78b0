"""Servers that ours is compared with. Each program runs in an environment of its own, which `make peers` makes."""
