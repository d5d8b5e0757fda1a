"""`make bench`: layertune and what its users would take instead, side by side on one machine."""
