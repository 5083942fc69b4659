"""Disaster recovery: what is broken, what would mend it, and mending it so that it can be killed anywhere."""
