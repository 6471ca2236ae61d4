"""What people read about runs: lines and tables on the terminal, the HTML page, plots."""
