"""What is minimized or estimated, one objective a file."""
