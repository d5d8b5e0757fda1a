"""`make bench`, `make bench-gpu`: layertune and what its users would take instead, on one machine."""
