"""Reports: what a command found, in a file for people and for machines, as text, JSON or one HTML page."""
