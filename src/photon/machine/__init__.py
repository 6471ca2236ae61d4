"""What this computer has, and how its processes start and stop; no runs."""
