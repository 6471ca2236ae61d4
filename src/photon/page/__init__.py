"""`photon report`: one HTML page that holds all of a run, or compares several."""
