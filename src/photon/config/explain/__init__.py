"""What `photon config` prints about keys: their reference, and where their values come from."""
