"""What a configuration means to another: a later start of the run, a node of another site."""
