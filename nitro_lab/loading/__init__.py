"""Files and hubs: whatever is loaded is looked at first, and loaded whole or not at all."""
