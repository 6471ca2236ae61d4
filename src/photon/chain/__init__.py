"""A run's history that can be proven: links of hashes, signatures, receipts, who checks them."""
